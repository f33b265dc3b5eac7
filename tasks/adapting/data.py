"""Read every frame and label of a plan once, so that a bad file stops a run before any training."""

from typing import Any

from gearnn.datasets import check_frames
from gearnn.plan.opened import ROLES, Opened
from gearnn.store.copies import look_anew
from tasks.records import Data
from tasks.step import step


def _reads(opened: Opened) -> dict[str, Any]:
    look_anew()  # this step is a run's first
    return {"digests": digests_of(opened)}


@step(version=2, reads=_reads, label="check data")
def check_data(opened: Opened) -> Data:
    """Check the splits of a plan.

    Raises:
        DataError: a file is missing, unreadable, or contradicts the dataset.
    """
    for dataset in opened.splits().values():
        check_frames(dataset)
    return Data(digests=digests_of(opened), num_frames={role: len(opened.frames(role)) for role in ROLES})


def digests_of(opened: Opened) -> dict[str, str]:
    """Role of a split -> digest of all that determines its frames and truth."""
    by_split = {split: dataset.digest() for split, dataset in opened.splits().items()}
    return {role: by_split[opened.split(role)] for role in ROLES}
