"""Any folder of images and index masks: ``root/<split>/images/*`` and ``root/<split>/masks/<same name>.png``."""

from itertools import pairwise
from pathlib import Path

from gearnn.datasets.files import images_in, paired
from gearnn.datasets.frames import Camera, ImageFolders
from gearnn.errors import DataError


def folders(split: str) -> tuple[str, ...]:
    """Folders of the dataset that a split needs."""
    return (split,)


def open_folder(
    root: Path, split: str, camera: Camera, *, class_names: tuple[str, ...], ignore_index: int | None
) -> ImageFolders:
    """One split of a user's own frames.

    Args:
        root: folder of the splits.
        split: name of a folder in it, with ``images`` (PNG or JPEG) and ``masks`` (PNG, 8-bit class indices).
        camera: scales frames and masks.
        class_names: names of classes 0 .. C-1.
        ignore_index: value of pixels without truth.

    Raises:
        DataError: a folder is missing or empty, or a frame has no mask.
    """
    frames = images_in(root / split / "images", dataset="folder")
    for one, other in pairwise(sorted(frames, key=lambda frame: frame.stem)):
        if one.stem == other.stem:
            raise DataError(f"data folder: expected frames of different names, but got {one} and {other.name}")
    labels = paired(frames, lambda frame: root / split / "masks" / f"{frame.stem}.png", dataset="folder")
    return ImageFolders(frames, labels, class_names=class_names, ignore_index=ignore_index, camera=camera)
