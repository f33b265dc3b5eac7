"""Datasets: one file a dataset, and ``distorted.py``, a dataset as one distortion level sees it."""

from collections.abc import Mapping
from pathlib import Path

from gearnn.datasets.camvid import open_camvid
from gearnn.datasets.distorted import DistortedDataset
from gearnn.datasets.frames import Camera, FrameDataset, Sample, check_frames
from gearnn.datasets.streets import Streets
from gearnn.errors import DataError

__all__ = ["Camera", "DistortedDataset", "FrameDataset", "Sample", "check_frames", "open_split"]


def open_split(
    name: str, root: Path | None, split: str, camera: Camera, *, frames: Mapping[str, int], seed: int
) -> FrameDataset:
    """One split of a dataset by name.

    Args:
        name: ``camvid`` or ``streets``.
        root: folder of the dataset; streets needs none.
        split: name of the split.
        camera: the sensor.
        frames: streets: number of scenes in each split.
        seed: streets: seed of the scenes.

    Raises:
        DataError: unknown name, or the split is missing or incomplete.
    """
    if name == "streets":
        return Streets(split, frames[split], seed, camera)
    if name == "camvid" and root is not None:
        return open_camvid(root, split, camera)
    raise DataError(f"unknown dataset {name!r}; expected camvid or streets")
