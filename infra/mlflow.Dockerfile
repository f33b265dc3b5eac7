# The tracking server with what it needs for Postgres, S3 and passwords.
FROM python:3.11-slim-bookworm
COPY constraints.txt /tmp/constraints.txt
RUN pip install --no-cache-dir --constraint /tmp/constraints.txt 'mlflow[auth]' psycopg2-binary boto3
RUN useradd --create-home mlflow
USER mlflow
WORKDIR /home/mlflow
EXPOSE 5000
HEALTHCHECK --interval=10s --timeout=10s --start-period=120s --retries=6 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:5000/health', timeout=5)"]
CMD ["mlflow", "server", "--app-name=basic-auth", "--host=0.0.0.0", "--port=5000", "--workers=2"]
