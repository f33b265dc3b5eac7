-- Beside `prefect`, which the image makes.
CREATE DATABASE mlflow;
CREATE DATABASE mlflow_auth;
