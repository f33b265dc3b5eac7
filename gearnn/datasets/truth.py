"""A dataset with the truth that a problem needs, and a check of all of it."""

import logging
from typing import cast

from gearnn.datasets.frames import FrameDataset
from gearnn.datasets.instances import Instances, WithInstances
from gearnn.errors import DataError, PlanError

TRUTHS = ("classes", "instances", "class")
"""Classes of the pixels, instances, the class of the whole frame."""


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
    if (truth == "class") != (has == "class"):
        raise PlanError(
            f"plan: data.name: expected frames with {_WORDS[truth]} as truth, but {type(dataset).__name__} has "
            f"{_WORDS[has]}" + ("; data.name: class_folders reads folders of classes" if truth == "class" else "")
        )
    return cast(FrameDataset, WithInstances(dataset)) if truth == "instances" else dataset


def check_frames(dataset: FrameDataset) -> None:
    """Read every frame and every truth of a split once, so that bad files stop a run before training.

    Frames without any instance are allowed, as frames of nothing but background; they are named in the log.

    Raises:
        DataError: the first file that cannot be used; or no frame has an instance.
    """
    empty = []
    for index in range(len(dataset)):
        dataset.clip(index)
        target = dataset.target(index)
        if isinstance(target, Instances) and len(target.labels) == 0:
            empty.append(dataset.name(index))
    if empty:
        if len(empty) == len(dataset):
            raise DataError(f"data: expected instances, but none of the {len(dataset)} frames has one")
        told = ", ".join(empty[:_SHOWN]) + (" ..." if len(empty) > _SHOWN else "")
        logging.getLogger("gearnn").warning("%d of %d frames have no instance: %s", len(empty), len(dataset), told)


_SHOWN = 5
_WORDS = {"classes": "classes of pixels", "instances": "instances", "class": "one class a frame"}
