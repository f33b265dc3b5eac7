"""The Penn-Fudan pedestrian database (Wang et al. 2007): 170 images, in its own layout.

``root/PNGImages/*.png`` are frames of different sizes, ``root/PedMasks/*_mask.png`` masks of instances, 0
for background; its page counts 345 pedestrians, its masks hold 423. Research use. The database comes
without a split; GearNN's is fixed by the last digit of an image's number, so that it stays the same
whatever files are there: 0 to 6 ``train`` (122 images), 7 ``val`` (16), 8 and 9 ``test`` (32).
"""

from pathlib import Path

import numpy as np

from gearnn.datasets.files import images_in, paired
from gearnn.datasets.frames import Camera, ImageFolders
from gearnn.errors import DataError

CLASS_NAMES = ("background", "pedestrian")
SPLITS = {"train": "0123456", "val": "7", "test": "89"}
"""Last digits of the image numbers in every split."""

CONTENT_SHA256 = "a07390d9305ef7c271220842f07f8fcf238e71f55687cd79687e1967d115522b"
"""Digest of all frames and masks with their names; see :func:`gearnn.datasets.fetch.content_digest`."""

URL = "https://www.cis.upenn.edu/~jshi/ped_html/PennFudanPed.zip"


class PennFudan(ImageFolders):
    """Frames with class masks as truth, and the instances beside them."""

    def sequence(self, index: int) -> str:
        """Its own name: the images are single ones."""
        return self.name(index)

    def instances(self, index: int) -> np.ndarray:
        """Instance of every pixel, uint8 [H, W]; 0 for background.

        Raises:
            DataError: as for :meth:`target`.
        """
        return self.mask(index)


def folders(split: str) -> tuple[str, ...]:
    """Folders of the dataset that a split needs."""
    return "PNGImages", "PedMasks"


def open_pennfudan(root: Path, split: str, camera: Camera) -> PennFudan:
    """One split of Penn-Fudan.

    Args:
        root: folder that holds ``PNGImages`` and ``PedMasks``.
        split: ``train``, ``val`` or ``test``.
        camera: scales frames and masks.

    Raises:
        DataError: a folder is missing or empty, a frame has no mask, or there is no such split.
    """
    if split not in SPLITS:
        raise DataError(f"data pennfudan: expected a split among {', '.join(SPLITS)}, but got {split!r}")
    if not (root / "PNGImages").is_dir():
        raise DataError(
            f"data pennfudan: expected the folder {root / 'PNGImages'}, but it does not exist; "
            f"`gearnn data fetch pennfudan --to {root.parent}` brings it"
        )
    frames = images_in(root / "PNGImages", dataset="pennfudan", suffixes=(".png",))
    frames = [frame for frame in frames if frame.stem[-1] in SPLITS[split]]
    labels = paired(frames, lambda frame: root / "PedMasks" / f"{frame.stem}_mask.png", dataset="pennfudan")
    present = np.ones(256, dtype=np.uint8)
    present[0] = 0
    return PennFudan(frames, labels, class_names=CLASS_NAMES, ignore_index=None, camera=camera, classes=present)
