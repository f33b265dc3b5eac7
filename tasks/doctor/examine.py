"""All that ``gearnn doctor`` looks at: this machine, Prefect, MLflow, and plans."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from tasks.doctor.checks import Check, attempt
from tasks.doctor.machine import device_checks, disk_checks, package_checks, python_checks


def examine(plans: Sequence[Path], pool: str) -> Iterator[Check]:
    """All checks, each as soon as it is done.

    Args:
        plans: files.
        pool: Prefect's work pool that deployments run on.
    """
    from tasks.doctor.plan import plan_checks
    from tasks.doctor.servers import mlflow_checks, prefect_checks

    for what, check in (
        ("Python", python_checks),
        ("packages", package_checks),
        ("devices", device_checks),
        ("disk", disk_checks),
        ("Prefect", partial(prefect_checks, pool)),
        ("MLflow", mlflow_checks),
    ):
        yield from attempt(what, check)
    for plan in plans:
        yield from plan_checks(plan)
