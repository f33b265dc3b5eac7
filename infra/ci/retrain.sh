#!/usr/bin/env bash
# The step of .github/workflows/retrain.yml, and all that it does: what a push from BEFORE to AFTER has added is trained.
# "Re-run this job" starts a run that has failed again; one that is well is only shown.
set -euo pipefail
cd "$(dirname "$0")/../.."
zeros=0000000000000000000000000000000000000000
exec "${PYTHON:-.venv/bin/python}" -m infra.ci.retrain_on_push --before "${BEFORE:-$zeros}" --after "$AFTER" \
    --default-branch "${DEFAULT_BRANCH:-main}" $([ "${ATTEMPT:-1}" -le 1 ] || echo --again)
