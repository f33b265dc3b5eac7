"""Datasets: one file a dataset, and ``distorted.py``, a dataset as one distortion level sees it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from gearnn.datasets.distorted import DistortedDataset
from gearnn.datasets.frames import Camera, FrameDataset, Sample
from gearnn.datasets.instances import Instances
from gearnn.datasets.truth import check_frames, with_truth
from gearnn.errors import DataError
from gearnn.store.bucket import is_remote
from gearnn.store.copies import fetch_folder

__all__ = [
    "Camera",
    "DistortedDataset",
    "FrameDataset",
    "Instances",
    "Options",
    "Sample",
    "check_frames",
    "open_split",
    "with_truth",
]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What single datasets need besides folder, split and camera.

    Attributes:
        frames: streets: number of scenes in each split.
        seed: streets: seed of the scenes.
        class_names: folder, class_folders: names of the classes.
        ignore_index: folder: value of pixels without truth.
        clip: cityscapes: frames that encoders of video see, the labelled one included.
    """

    frames: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0
    class_names: tuple[str, ...] = ()
    ignore_index: int | None = None
    clip: int = 1


_TAKES: dict[str, tuple[str, ...]] = {
    "camvid": (),
    "cityscapes": ("clip",),
    "class_folders": ("class_names",),
    "folder": ("class_names", "ignore_index"),
    "pennfudan": (),
}
"""Datasets in folders, each in the module of its name, with the options that it takes."""


def open_split(
    name: str, root: str | Path | None, split: str, camera: Camera, options: Options | None = None
) -> FrameDataset:
    """One split of a dataset by name.

    Args:
        name: ``camvid``, ``cityscapes``, ``class_folders``, ``folder``, ``pennfudan`` or ``streets``.
        root: folder of the dataset, or ``s3://bucket/prefix``; streets needs none.
        split: name of the split.
        camera: the sensor.
        options: what the dataset needs besides.

    Raises:
        DataError: unknown name, or the split is missing or incomplete.
        StoreError: the bucket does not answer, or has no such objects.
    """
    options = options or Options()
    if name == "streets":
        from gearnn.datasets.streets import Streets

        return Streets(split, options.frames[split], options.seed, camera)
    if name not in _TAKES or root is None:
        raise DataError(f"unknown dataset {name!r}; expected one of {', '.join(_TAKES)} with its folder, or streets")
    module = import_module(f"gearnn.datasets.{name}")  # only what a plan names
    local = fetch_folder(str(root), module.folders(split)) if is_remote(root) else Path(root).expanduser()
    taken = {option: getattr(options, option) for option in _TAKES[name]}
    dataset: FrameDataset = getattr(module, f"open_{name}")(local, split, camera, **taken)
    return dataset
