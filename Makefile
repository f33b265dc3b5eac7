# Every target does its own set-up from a bare Python. `make demo` installs the package and what it needs; the others add
# to the same .venv. A stamp is made when an install has ended; the larger ones hold the smaller.
PYTHON ?= python3
BIN := .venv/bin
PACKAGE := .venv/.package
SERVICES := .venv/.services
ALL := .venv/.all

export DO_NOT_TRACK := true
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false

.NOTPARALLEL: # two pips in one environment
.PHONY: help setup demo test test-anywhere check bench fuzz torture services services-stop deploy format clean

help: ## show what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(ALL) ## install everything into .venv

# What pip was killed over counts as installed for it, unless its metadata goes: pip writes its own name into RECORD last.
# $(1): what to install, $(2): the stamps.
define install
@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"expected Python 3.11 to 3.13, but $(PYTHON) is {v[0]}.{v[1]}; try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
@echo "setting up .venv, some minutes ..."
@for found in .venv/lib/python3*/site-packages/*.dist-info; do grep -qs '/INSTALLER,' "$$found/RECORD" || rm -rf "$$found"; done
@$(BIN)/python -c 'from importlib.metadata import version; version("pip")' 2>/dev/null || $(PYTHON) -m venv --clear .venv
@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '$(1)'
@touch $(2)
endef

$(PACKAGE): pyproject.toml constraints.txt
	$(call install,.,$(PACKAGE))

$(SERVICES): pyproject.toml constraints.txt
	$(call install,.[services],$(PACKAGE) $(SERVICES))

$(ALL): pyproject.toml constraints.txt
	$(call install,.[dev],$(PACKAGE) $(SERVICES) $(ALL))

demo: $(PACKAGE) ## train a small base, adapt it to three JPEG levels, register the adaptors
	@$(BIN)/gearnn adapt flows/plans/streets_jpeg.yaml

test: $(ALL) ## run the tests, several files at a time
	@$(BIN)/python -m pytest --numprocesses=auto $(PYTEST_ARGS)

test-anywhere: $(ALL) ## run them under other arithmetic: fp32, bf16, no AMX, AVX2, threads, seed, order
	@$(BIN)/python -m tests.arithmetic $(PYTEST_ARGS)

check: $(ALL) ## lint, format, types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(ALL) ## measure what the project promises, as ratios
	@$(BIN)/python -m tests.bench

fuzz: $(ALL) ## 20,000 damaged inputs through every decoder and sensor
	@$(BIN)/python -m tests.fuzz

torture: $(ALL) ## gears of every network of torchvision and timm beside deep copies; hours
	@$(BIN)/python -m tests.torture $(TORTURE_ARGS)

services: $(SERVICES) ## start Postgres, S3, Prefect and MLflow on this machine, with passwords
	@$(BIN)/python -m infra.services start

services-stop: $(SERVICES) ## stop them; what they stored stays
	@$(BIN)/python -m infra.services stop

deploy: $(PACKAGE) ## the work pool, all deployments and the automations, on the server of PREFECT_API_URL
	@$(BIN)/python -m infra.deploy

format: $(ALL) ## rewrite the code in the house's format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean: ## remove the environment, all results, and the services with their data
	@python=$(BIN)/python; [ -x $$python ] || python=$(PYTHON); [ ! -e .gearnn/services ] || $$python -m infra.services stop --remove
	rm -rf .venv .gearnn build *.egg-info .pytest_cache .mypy_cache .ruff_cache
