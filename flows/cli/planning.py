"""The command ``gearnn plan``: what a plan should say."""

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.terminal import console, preflight, print_table, progress_bars, running

plan = typer.Typer(no_args_is_help=True, help="Find out what a plan should say.")


@plan.callback()
def _group() -> None:
    """Find out what a plan should say."""


@plan.command("levels")
def levels(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="plan in YAML, see docs/plans.md")],
    regret: Annotated[float, typer.Option(min=0.0, help="points that a level may lose")] = 0.5,
) -> None:
    """The fewest levels that need an adaptor, by every adaptor's score at every level on the split promote."""
    with running():
        from flows.levels import needed_levels
        from gearnn.plan import Plan

        checked = Plan.load(plan)
        preflight(checked)
        with progress_bars():
            served = needed_levels(checked, regret)
        cells: list[tuple[str, ...]] = [("level", "runs with", "points lost")]
        cells += [(str(one.level), str(one.gear), f"{one.regret:.2f}") for one in served]
        print_table(cells, title=f"{checked.registered_base}, on {checked.data.splits.promote}")
        gears = list(dict.fromkeys(str(one.gear) for one in served if one.gear.parts))
        console.print(
            f"{len(gears)} adaptors for {len(served)} levels, each within {regret:g} points of its own; in the plan:",
            highlight=False,
        )
        listed = ", ".join(json.dumps(gear) for gear in gears)
        console.print(f"levels: [{listed}]", soft_wrap=True, highlight=False, markup=False)
