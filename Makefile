# `make demo` and `make test` do all their own set-up from a bare Python; the rest builds on the same environment.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

export DO_NOT_TRACK := true
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false

.PHONY: help setup demo test test-anywhere check bench fuzz torture services services-stop deploy format clean

help: ## show what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(READY) ## install everything into .venv

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"expected Python 3.11 to 3.13, but $(PYTHON) is {v[0]}.{v[1]}; try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	@echo "setting up .venv, a minute or two ..."
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

demo: $(READY) ## train a small base, adapt it to three JPEG levels, register the adaptors
	@$(BIN)/gearnn adapt flows/plans/streets_jpeg.yaml

test: $(READY) ## run the tests, several files at a time
	@$(BIN)/python -m pytest --numprocesses=auto $(PYTEST_ARGS)

test-anywhere: $(READY) ## run them under other arithmetic: fp32, bf16, no AMX, AVX2, threads, seed, order
	@$(BIN)/python -m tests.arithmetic $(PYTEST_ARGS)

check: $(READY) ## lint, format, types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(READY) ## measure what the project promises, as ratios
	@$(BIN)/python -m tests.bench

fuzz: $(READY) ## 20,000 damaged inputs through every decoder and sensor
	@$(BIN)/python -m tests.fuzz

torture: $(READY) ## gears of every network of torchvision and timm beside deep copies; hours
	@$(BIN)/python -m tests.torture $(TORTURE_ARGS)

services: $(READY) ## start Postgres, S3, Prefect and MLflow on this machine, with passwords
	@$(BIN)/python -m infra.services start

services-stop: $(READY) ## stop them; what they stored stays
	@$(BIN)/python -m infra.services stop

deploy: $(READY) ## the work pool, all deployments and the automations, on the server of PREFECT_API_URL
	@$(BIN)/python -m infra.deploy

format: $(READY) ## rewrite the code in the house's format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean: ## remove the environment, all results, and the services with their data
	@python=$(BIN)/python; [ -x $$python ] || python=$(PYTHON); [ ! -e .gearnn/services ] || $$python -m infra.services stop --remove
	rm -rf .venv .gearnn build *.egg-info .pytest_cache .mypy_cache .ruff_cache
