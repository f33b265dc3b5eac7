"""The command ``gearnn doctor``: is everything there that a run needs?"""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from flows.cli.terminal import console, running

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(
    plans: Annotated[list[Path] | None, typer.Argument(metavar="[PLAN]...", help="plans, see docs/plans.md")] = None,
    pool: Annotated[str, typer.Option(help="Prefect's work pool that deployments run on")] = "gpu",
) -> None:
    """Check this machine, Prefect, MLflow, and what plans need; one line a check.

    Exit status: 0 nothing fails, 1 something does, 2 a plan or its data cannot be used.
    """
    with running():
        from tasks.doctor.examine import examine

        marks, status = [], 0
        for check in examine(plans or (), pool):
            line = Text.assemble((f"{check.mark:4}", _STYLES[check.mark]), f"  {check.what:<16}  {check.found}")
            console.print(line, soft_wrap=True)
            marks.append(check.mark)
            status = max(status, check.status)
        fails, warns = marks.count("fail"), marks.count("warn")
        console.print(f"{len(marks)} checks: {fails} failed, {warns} with a warning", highlight=False)
        if status:
            raise typer.Exit(status)
