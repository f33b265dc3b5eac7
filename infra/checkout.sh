#!/usr/bin/env bash
# Where a flow run's code is; prints the folder. That is GEARNN_WORKDIR, the worker's own checkout, or where the run
# names a commit (GEARNN_COMMIT) a work tree of that commit beside it, so that a retraining of a branch runs the
# branch's code while the worker keeps its own. Results stay in one place: the work tree's .gearnn is the worker's.
set -euo pipefail
workdir=${GEARNN_WORKDIR:?set GEARNN_WORKDIR on the worker to the folder of its checkout}
if [ -z "${GEARNN_COMMIT:-}" ]; then
    printf %s "$workdir"
    exit
fi
cd "$workdir"
tree=$PWD/.gearnn/checkouts/$GEARNN_COMMIT
mkdir -p .gearnn/checkouts
exec 9>.gearnn/checkouts/.lock
flock 9  # two runs of one commit
if [ ! -e "$tree/.complete" ]; then
    git cat-file -e "$GEARNN_COMMIT^{commit}" 2>/dev/null || git fetch --quiet origin "$GEARNN_COMMIT" || git fetch --quiet origin
    git worktree prune
    rm -rf "$tree"
    git worktree add --quiet --detach --force "$tree" "$GEARNN_COMMIT" >&2
    ln -s "$workdir/.gearnn" "$tree/.gearnn"
    touch "$tree/.complete"
fi
printf %s "$tree"
