"""What a retraining reads and does besides running plans."""

from collections.abc import Sequence
from pathlib import Path

from prefect import task

from gearnn import registry
from gearnn.errors import PlanError
from gearnn.plan import Plan
from tasks.records import Finding


def read_plans(places: Sequence[str]) -> dict[str, Plan]:
    """Plans by the file that holds them; of a folder, every ``*.yaml`` that lies directly in it.

    Raises:
        PlanError: nothing there, or a plan that is wrong.
    """
    files: list[Path] = []
    for place in map(Path, places):
        found = sorted({*place.glob("*.yaml"), *place.glob("*.yml")}) if place.is_dir() else [place]
        if not found:
            raise PlanError(f"plans: expected *.yaml in {place}, but it holds none")
        files += [file for file in found if file not in files]
    if not files:
        raise PlanError("plans: expected at least one file or folder, but got none")
    return {str(file): Plan.load(file) for file in files}


@task(name="archive", task_run_name="archive {finding.name}")
def archive_level(finding: Finding) -> None:
    """Take a retired level's adaptors out of use; they stay in the registry."""
    registry.archive(finding.name)


@task(name="restore", task_run_name="restore {finding.name}")
def restore_level(finding: Finding) -> None:
    """Put an archived level's adaptors into use again."""
    registry.restore(finding.name)
