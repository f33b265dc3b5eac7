"""The command ``gearnn submit``: run a plan on the work pool."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from flows.cli.terminal import console, fail, running

FLOWS = {"adapt": "adapt/gpu", "benchmark": "benchmark/gpu", "train-base": "train-base/gpu"}
"""Deployments of prefect.yaml whose flows take a plan."""


def submit(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="plan in YAML, see docs/plans.md")],
    flow: Annotated[Literal["adapt", "benchmark", "train-base"], typer.Option(help="what to run")] = "adapt",
    level: Annotated[list[str] | None, typer.Option(help="only this level; may be repeated")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="wait for the end; exit status 1 if it fails")] = False,
) -> None:
    """Run a plan on the work pool of the Prefect server; its files are looked up where the worker is."""
    with running():
        from gearnn.plan import Plan

        checked = Plan.load(plan)
        parameters = {"plan": (checked.only(level) if level else checked).model_dump(mode="json", exclude_unset=True)}
        _start(FLOWS[flow], parameters, watch)


def _start(deployment: str, parameters: dict[str, Any], watch: bool) -> None:
    from flows.running import deployments

    with deployments.prefect_api() as client:
        run = deployments.start(client, deployments.find(client, deployment, warn=_warn), parameters, tags=["submit"])
        _say(f"{run.name}: {deployments.link(run)}")
        if not watch:
            return
        ended = deployments.wait(client, run, float("inf"), _say)
        if not deployments.has_succeeded(ended):
            fail(deployments.reason(ended))
            raise typer.Exit(1)


def _say(line: str) -> None:
    console.print(line, soft_wrap=True, highlight=False, markup=False)


def _warn(line: str) -> None:
    _say(f"warning: {line}")
