#!/usr/bin/env bash
# Where a flow run's code is; prints the folder. That is GEARNN_WORKDIR, the worker's own checkout, or where the run
# names a commit (its parameter `commit`, or GEARNN_COMMIT among its job variables' env) a work tree of that commit
# beside it, so that a retraining of a branch runs the branch's code while the worker keeps its own. What is installed
# stays the worker's. Results stay in one place: the work tree's .gearnn is the worker's.
set -euo pipefail
workdir=${GEARNN_WORKDIR:?set GEARNN_WORKDIR on the worker to the folder of its checkout}
commit=${GEARNN_COMMIT:-$(python3 "$workdir/infra/run_commit.py")}
if [ -z "$commit" ]; then
    printf %s "$workdir"
    exit
fi
if ! [[ $commit =~ ^[0-9a-f]{7,40}$ ]]; then
    echo "expected the commit's digest, but got: $commit" >&2
    exit 1
fi
cd "$workdir"
if ! git rev-parse --git-dir >/dev/null 2>&1; then
    echo "the run names commit $commit, but GEARNN_WORKDIR=$workdir is no clone of the repository to take it from" >&2
    exit 1
fi
tree=$PWD/.gearnn/checkouts/$commit
mkdir -p .gearnn/checkouts
if [ -d ../shared ] && [ ! -e .gearnn/checkouts/shared ]; then
    ln -s "$(cd ../shared && pwd)" .gearnn/checkouts/shared  # plans here name data in ../shared
fi
exec 9>.gearnn/checkouts/.lock
flock 9  # two runs of one commit
if [ ! -e "$tree/.complete" ]; then
    git cat-file -e "$commit^{commit}" 2>/dev/null || git fetch --quiet origin "$commit" || git fetch --quiet origin
    git worktree prune
    rm -rf "$tree"
    git worktree add --quiet --detach --force "$tree" "$commit" >&2
    ln -s "$PWD/.gearnn" "$tree/.gearnn"
    touch "$tree/.complete"
fi
printf %s "$tree"
