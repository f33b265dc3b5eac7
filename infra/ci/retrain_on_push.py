"""``python -m infra.ci.retrain_on_push --before SHA --after SHA``: train what a push has added to plans.

Starts the deployment ``retrain/gpu`` for the new levels and for nothing else, with the code of the commit, waits, and
writes a summary in Markdown to ``$GITHUB_STEP_SUMMARY``, or to the standard output. A second time for a commit it finds
the run of the first time. Exit status 1: the run has failed, or its time is over.
"""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun

from flows.running import deployments
from gearnn.errors import ServerError
from infra.ci import summary
from infra.ci.changes import FOLDERS, Changes, PushError, Request, commit_before, find_changes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run for one push; the exit status."""
    options = _parser().parse_args(arguments)
    lines = [f"## Retraining for {options.after[:12]}", ""]
    try:
        before = commit_before(options.repository, options.before, options.after, options.default_branch)
        changes = find_changes(options.repository, before, options.after, options.plans or FOLDERS)
        lines += summary.what_is_asked(changes)
        status = _retrain(changes, options, lines) if changes.requests else 0
    except (PushError, ServerError) as error:
        lines += [f"**{error}**", ""]
        _say(f"error: {error}")
        status = 1
    _write("\n".join(lines))
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m infra.ci.retrain_on_push", description="Train what a push has added."
    )
    parser.add_argument("--before", required=True, help="commit before the push; zeros for a new branch")
    parser.add_argument("--after", required=True, help="commit after it")
    parser.add_argument("--plans", action="append", metavar="DIR", help=f"folder of plans [{', '.join(FOLDERS)}]")
    parser.add_argument("--default-branch", default="main", help="where new branches come from [%(default)s]")
    parser.add_argument("--repository", type=Path, default=Path(), help="a clone [%(default)s]")
    parser.add_argument("--deployment", default="retrain/gpu", help="[%(default)s]")
    parser.add_argument("--limit", type=float, default=340, metavar="MINUTES", help="how long to wait [%(default)s]")
    parser.add_argument("--again", action="store_true", help="start a run of this commit again that has failed")
    return parser


def _retrain(changes: Changes, options: argparse.Namespace, lines: list[str]) -> int:
    """Ask for the runs, all at once, wait for each, and add what they did to the lines; the exit status."""
    requests = changes.requests
    with deployments.prefect_api() as client:
        runs = [_start(client, request, options) for request in requests]
        for index, (run, request) in enumerate(zip(runs, requests, strict=True)):
            runs[index] = deployments.wait(client, run, 60 * options.limit, _say)
            lines += summary.what_came(client, runs[index], request)
    return 0 if all(map(deployments.has_succeeded, runs)) else 1


def _start(client: SyncPrefectClient, request: Request, options: argparse.Namespace) -> FlowRun:
    """The run for a request: a new one, or the one that an earlier try has started."""
    run = deployments.start(
        client,
        deployments.find(client, options.deployment, warn=_say),
        {"plans": list(request.plans), "levels": list(request.levels)},
        tags=["ci", f"commit:{options.after[:12]}"],
        key=_key(options.after, request),
        environment={"GEARNN_COMMIT": options.after},
    )
    if options.again and run.state and run.state.is_final() and not run.state.is_completed():
        run = deployments.start_again(client, run)
    _say(f"{', '.join(request.plans)}: {', '.join(request.levels)}")
    _say(deployments.link(run))
    return run


def _key(commit: str, request: Request) -> str:
    """The same for the same request of a commit, however often it comes; another base to compare with is another."""
    asked = json.dumps([request.plans, request.levels])
    return f"retrain-{commit}-{hashlib.sha256(asked.encode()).hexdigest()[:12]}"


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _write(text: str) -> None:
    target = os.environ.get("GITHUB_STEP_SUMMARY")
    if not target:
        _say(text)
        return
    with Path(target).open("a") as file:
        file.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
