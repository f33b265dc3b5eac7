"""What CI does beyond checks and tests: ``python -m infra.ci.retrain_on_push``."""
