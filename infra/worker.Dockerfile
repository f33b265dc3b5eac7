# Runs flows, one at a time, on one GPU. The base brings the torch that constraints.txt names, so pip leaves it alone.
ARG BASE=pytorch/pytorch:2.14.1-cuda13.0-cudnn9-runtime
FROM ${BASE}
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/gearnn
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY gearnn gearnn
COPY tasks tasks
COPY flows flows
COPY infra/checkout.sh infra/run_commit.py infra/
ENV PIP_BREAK_SYSTEM_PACKAGES=1
RUN pip install --no-cache-dir --constraint constraints.txt .
# Plans that keep results in .gearnn, beside the code, keep them on the volume.
RUN useradd --create-home worker \
    && install --directory --owner=worker /var/lib/gearnn \
    && ln -s /var/lib/gearnn /opt/gearnn/.gearnn
USER worker
WORKDIR /home/worker
ENV GEARNN_HOME=/var/lib/gearnn \
    GEARNN_WORKDIR=/opt/gearnn \
    DO_NOT_TRACK=true \
    MLFLOW_DISABLE_TELEMETRY=true \
    PREFECT_SERVER_ANALYTICS_ENABLED=false
EXPOSE 8080
# 503 when the worker has not asked for work for a while
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/health', timeout=5)"]
CMD ["prefect", "--no-prompt", "worker", "start", "--pool=gpu", "--type=process", "--limit=1", "--with-healthcheck"]
