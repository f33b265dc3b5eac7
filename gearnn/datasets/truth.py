"""A dataset with the truth that a problem needs, and a check of all of it."""

import logging
from collections.abc import Collection, Sequence
from typing import cast

import numpy as np

from gearnn.datasets.frames import FrameDataset
from gearnn.datasets.instances import Instances, WithInstances
from gearnn.errors import DataError, PlanError

TRUTHS = ("classes", "instances", "class")
"""Classes of the pixels, instances, the class of the whole frame."""
_SHOWN = 5
_WORDS = {"classes": "classes of pixels", "instances": "instances", "class": "one class a frame"}
_LOGGER = logging.getLogger("gearnn")


def with_truth(dataset: FrameDataset, truth: str) -> FrameDataset:
    """The same frames with another truth.

    Args:
        dataset: undistorted frames.
        truth: one of ``TRUTHS``.

    Raises:
        PlanError: no such truth, or one that this dataset cannot give.
        DataError: the dataset does not distinguish instances.
    """
    if truth not in TRUTHS:
        raise PlanError(f"expected a problem's truth among {', '.join(TRUTHS)}, but got {truth!r}")
    has = getattr(dataset, "truth", "classes")
    if has == "none":
        return dataset
    if (truth == "class") != (has == "class"):
        raise PlanError(
            f"plan: data.name: expected frames with {_WORDS[truth]} as truth, but {type(dataset).__name__} has "
            f"{_WORDS[has]}" + ("; data.name: class_folders reads folders of classes" if truth == "class" else "")
        )
    return cast(FrameDataset, WithInstances(dataset)) if truth == "instances" else dataset


def check_frames(dataset: FrameDataset) -> None:
    """Read every frame and every truth of a split once, so that bad files stop a run before training.

    Frames without any instance are allowed, as frames of nothing but background; they are named in the log. So
    are classes that no truth has: nothing is learnt of them, and no figure speaks of them.

    Raises:
        DataError: the first file that cannot be used; no frame has an instance; or void stands where the
            second of two classes should.
    """
    empty: list[str] = []
    seen: set[int] = set()
    for index in range(len(dataset)):
        dataset.clip(index)
        target = dataset.target(index)
        if isinstance(target, Instances):
            seen |= {0, *map(int, target.labels)}  # 0 is the background
            if len(target.labels) == 0:
                empty.append(dataset.name(index))
        else:
            seen.update(np.unique(target).tolist())
    if empty:
        if len(empty) == len(dataset):
            raise DataError(f"data: expected instances, but none of the {len(dataset)} frames has one")
        _LOGGER.warning("%d of %d frames have no instance: %s", len(empty), len(dataset), _first(empty))
    _check_classes(dataset, seen)


def _check_classes(dataset: FrameDataset, seen: Collection[int]) -> None:
    """Log the classes that no truth has; where void stands in the place of the second of two, refuse."""
    void, present = dataset.ignore_index, [name for i, name in enumerate(dataset.class_names) if i in seen]
    if void is not None and void in seen and len(dataset.class_names) == 2 and len(present) < 2:
        raise DataError(
            f"data: expected pixels of two classes, but all {len(dataset)} masks hold only "
            f"{', '.join(present) or 'no class'} and void ({void}); if {void} is the second class, write 1 there, and "
            f"leave out data.ignore"
        )
    absent = [name for name in dataset.class_names if name not in present]
    if absent:
        _LOGGER.warning("no truth of %d frames has the classes %s", len(dataset), _first(absent))


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (" ..." if len(names) > _SHOWN else "")
