"""Steps of a retraining: what plans want and the registry lacks, and what is archived."""
