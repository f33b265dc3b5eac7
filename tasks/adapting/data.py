"""Read every frame and label of a plan once, so that a bad file stops a run before any training."""

from typing import Any

from gearnn.datasets import check_frames
from gearnn.plan import Plan
from gearnn.plan.resolve import ROLES, open_role
from gearnn.store.copies import look_anew
from tasks.records import Data
from tasks.step import step


def _reads(plan: Plan) -> dict[str, Any]:
    look_anew()  # this step is a run's first
    return {"digests": digests_of(plan)}


@step(version=2, reads=_reads, label="check data")
def check_data(plan: Plan) -> Data:
    """Check the splits of a plan.

    Raises:
        DataError: a file is missing, unreadable, or contradicts the dataset.
    """
    datasets = {role: open_role(plan, role) for role in ROLES}
    splits = {getattr(plan.data.splits, role): dataset for role, dataset in datasets.items()}
    for dataset in splits.values():
        check_frames(dataset)
    return Data(digests=digests_of(plan), num_frames={role: len(dataset) for role, dataset in datasets.items()})


def digests_of(plan: Plan) -> dict[str, str]:
    """Role of a split -> digest of all that determines its frames and truth."""
    by_split: dict[str, str] = {}
    for role in ROLES:
        split = getattr(plan.data.splits, role)
        if split not in by_split:
            by_split[split] = open_role(plan, role).digest()
    return {role: by_split[getattr(plan.data.splits, role)] for role in ROLES}
