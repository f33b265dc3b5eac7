"""What GearNN's workflow runs on: Postgres, S3, Prefect and MLflow, with Docker and without."""
