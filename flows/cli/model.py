"""The command ``gearnn model``: a plan's base before anything is trained."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.terminal import console, print_table, running

model = typer.Typer(no_args_is_help=True, help="Look at the base of a plan.")


@model.callback()
def _group() -> None:
    """Look at the base of a plan."""


@model.command("show")
def show(plan: Annotated[Path, typer.Argument(metavar="PLAN", help="plan in YAML, see docs/plans.md")]) -> None:
    """The layers of a plan's base, their sizes, and what could be adapted under its bound."""
    with running():
        from gearnn.plan import Plan
        from tasks.inspecting.model import describe_base

        lines, cells = describe_base(Plan.load(plan))
        print_table(cells)
        for line in lines:
            console.print(line, soft_wrap=True, highlight=False)
