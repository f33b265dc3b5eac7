"""Any folder of images and index masks: ``root/<split>/images/*`` and ``root/<split>/masks/<same name>.png``.

Images alone will do, in ``root/<split>/images/*`` or ``root/<split>/*``: then the base's answers on the undistorted
frames stand in for the truth.

Where ``root/<split>/instances/<same name>.png`` distinguish instances, by a number a pixel and 0 for
none, the frames serve instance segmentation too; an instance's class is that of its pixels in the mask.
"""

import hashlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from gearnn.datasets.files import images_in, mask_digest, paired
from gearnn.datasets.frames import Camera, ImageFolders, Unlabelled
from gearnn.errors import DataError


class FolderWithInstances(ImageFolders):
    """Frames with class masks as truth, and the instances beside them.

    Args:
        folder: of the masks of instances, 8 or 16 bits, named as the frames.
        others: of :class:`gearnn.datasets.frames.ImageFolders`.
    """

    def __init__(self, folder: Path, *others: Any, **more: Any) -> None:
        super().__init__(*others, **more)
        self._folder = folder

    def instances(self, index: int) -> np.ndarray:
        """Instance of every pixel, integer [H, W]; 0 for none.

        Raises:
            DataError: the file is missing, unreadable, no mask, or of another size than its frame.
        """
        return self._open_mask(self._folder / f"{self._frames[index].stem}.png", index)

    def instances_digest(self) -> str:
        """sha256 of all masks of instances."""
        total = hashlib.sha256()
        for path in self._paths():
            total.update(mask_digest(path))
        return total.hexdigest()

    def _paths(self) -> list[Path]:
        """The masks of instances; looked for only where they are needed."""
        return paired(self._frames, lambda frame: self._folder / f"{frame.stem}.png", dataset="folder")


def folders(split: str) -> tuple[str, ...]:
    """Folders of the dataset that a split needs."""
    return (split,)


def open_folder(
    root: Path, split: str, camera: Camera, *, class_names: tuple[str, ...], ignore_index: int | None
) -> ImageFolders | Unlabelled:
    """One split of a user's own frames.

    Args:
        root: folder of the splits.
        split: name of a folder in it, with ``images`` (PNG or JPEG) and ``masks`` (PNG, class indices); or with images
            alone.
        camera: scales frames and masks.
        class_names: names of classes 0 .. C-1.
        ignore_index: value of pixels without truth.

    Raises:
        DataError: a folder is missing or empty, a frame has no mask, or there are no masks, but a folder that may
            hold them under another name.
    """
    folder = root / split
    frames = images_in(folder / "images" if (folder / "images").is_dir() else folder, dataset="folder")
    for one, other in pairwise(sorted(frames, key=lambda frame: frame.stem)):
        if one.stem == other.stem:
            raise DataError(f"data folder: expected frames of different names, but got {one} and {other.name}")
    if not (folder / "masks").is_dir():
        _check_alone(folder)
        return Unlabelled(frames, class_names=class_names, ignore_index=ignore_index, camera=camera)
    labels = paired(frames, lambda frame: root / split / "masks" / f"{frame.stem}.png", dataset="folder")
    more: dict[str, Any] = {"class_names": class_names, "ignore_index": ignore_index, "camera": camera}
    if not (root / split / "instances").is_dir():
        return ImageFolders(frames, labels, **more)
    return FolderWithInstances(root / split / "instances", frames, labels, **more)


def _check_alone(folder: Path) -> None:
    """Without masks there must be no folder that somebody may have meant by them."""
    others = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name != "images")
    if others:
        raise DataError(
            f"data folder: expected index masks in {folder / 'masks'}, or images alone, but {folder} has the folder "
            f"{others[0]}; call it masks if it holds them, else move it away"
        )
