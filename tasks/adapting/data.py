"""Read every frame and label of a plan once, so that a bad file stops a run before any training."""

from contextlib import nullcontext
from typing import Any

from gearnn.datasets import check_frames
from gearnn.datasets.overlap import Seen, overlaps
from gearnn.errors import DataError
from gearnn.plan.opened import ROLES, Opened
from gearnn.store.copies import look_anew
from tasks.progress import logger_here
from tasks.records import Data
from tasks.step import device_of, step


def _reads(opened: Opened) -> dict[str, Any]:
    look_anew()  # this step is a run's first
    splits = opened.plan.data.splits
    return {"digests": digests_of(opened), "splits": splits.model_dump(mode="json")}


@step(version=3, reads=_reads, label="check data")
def check_data(opened: Opened) -> Data:
    """Check the splits of a plan, and what they have in common.

    Raises:
        DataError: a file is missing, unreadable, or contradicts the dataset; or a frame is in two splits, and the
            plan does not say that this is meant.
    """
    splits = opened.splits()
    answered = tuple(role for role in ROLES if opened.is_answered(role))
    with device_of(opened, "check data") if answered else nullcontext():
        for dataset in splits.values():
            check_frames(dataset)
    for role in answered:
        logger_here().warning(
            "frames: %s has no masks, so the base's answers on the undistorted frames are its truth", opened.split(role)
        )
    found = overlaps({split: Seen(dataset) for split, dataset in splits.items()})
    same = next((overlap for overlap in found if overlap.same), None)
    if same is not None and opened.plan.data.splits.overlap == "refused":
        raise DataError(
            f"plan: data.splits: expected frames of their own in every split, but {same}; what is chosen or trained "
            f"on a frame looks better on it than it is: take the frames out of one, or set overlap: reported"
        )
    for overlap in found:
        logger_here().warning("frames: %s", overlap)
    return Data(
        digests=digests_of(opened),
        num_frames={role: len(opened.frames(role)) for role in ROLES},
        splits={role: opened.split(role) for role in ROLES},
        answered=answered,
        overlaps=(*_named_twice(opened), *map(str, found)),
    )


def _named_twice(opened: Opened) -> list[str]:
    """Splits that play two roles."""
    roles: dict[str, list[str]] = {}
    for role in ROLES:
        roles.setdefault(opened.split(role), []).append(role)
    return [f"{split} serves as {' and '.join(served)}" for split, served in roles.items() if len(served) > 1]


def digests_of(opened: Opened) -> dict[str, str]:
    """Role of a split -> digest of all that determines its frames and truth."""
    by_split = {split: dataset.digest() for split, dataset in opened.splits().items()}
    return {role: by_split[opened.split(role)] for role in ROLES}
