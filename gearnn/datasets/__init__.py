"""Datasets: one file a dataset, and ``distorted.py``, a dataset as one distortion level sees it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gearnn.datasets import camvid, cityscapes, class_folders, folder, pennfudan
from gearnn.datasets.distorted import DistortedDataset
from gearnn.datasets.frames import Camera, FrameDataset, Sample
from gearnn.datasets.instances import Instances
from gearnn.datasets.streets import Streets
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


_Opener = Callable[[Path, str, Camera, Options], FrameDataset]

_IN_FOLDERS: dict[str, tuple[_Opener, Callable[[str], tuple[str, ...]]]] = {
    "camvid": (lambda root, split, camera, _: camvid.open_camvid(root, split, camera), camvid.folders),
    "cityscapes": (
        lambda root, split, camera, options: cityscapes.open_cityscapes(root, split, camera, clip=options.clip),
        cityscapes.folders,
    ),
    "class_folders": (
        lambda root, split, camera, options: class_folders.open_class_folders(
            root, split, camera, class_names=options.class_names
        ),
        class_folders.folders,
    ),
    "folder": (
        lambda root, split, camera, options: folder.open_folder(
            root, split, camera, class_names=options.class_names, ignore_index=options.ignore_index
        ),
        folder.folders,
    ),
    "pennfudan": (lambda root, split, camera, _: pennfudan.open_pennfudan(root, split, camera), pennfudan.folders),
}


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
        return Streets(split, options.frames[split], options.seed, camera)
    if name not in _IN_FOLDERS or root is None:
        raise DataError(
            f"unknown dataset {name!r}; expected one of {', '.join(_IN_FOLDERS)} with its folder, or streets"
        )
    opener, folders = _IN_FOLDERS[name]
    local = fetch_folder(str(root), folders(split)) if is_remote(root) else Path(root).expanduser()
    return opener(local, split, camera, options)
