"""Steps from a plan to adaptors: frames, base, fine-tunes, sensitivities, knapsack, scores."""
