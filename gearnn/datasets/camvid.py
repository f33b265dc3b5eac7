"""CamVid, the Cambridge-driving Labeled Video Database (Brostow et al. 2009), in the layout of the SegNet tutorial.

``root/train/*.png`` and ``root/val/*.png`` are frames, ``root/trainannot/*.png`` and
``root/valannot/*.png`` their index masks: 11 classes, 11 for void. Research use only; GearNN neither
ships nor downloads it.
"""

from pathlib import Path

from gearnn.datasets.files import images_in, paired
from gearnn.datasets.frames import Camera, ImageFolders

CLASS_NAMES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)
VOID = 11


def folders(split: str) -> tuple[str, ...]:
    """Folders of the dataset that a split needs."""
    return split, f"{split}annot"


def open_camvid(root: Path, split: str, camera: Camera) -> ImageFolders:
    """One split of CamVid.

    Args:
        root: folder that holds ``<split>`` and ``<split>annot``.
        split: ``train``, ``val`` or ``test``.
        camera: scales frames and labels.

    Raises:
        DataError: a folder is missing or empty, or a frame has no label.
    """
    frames = images_in(root / split, dataset="camvid", suffixes=(".png",))
    labels = paired(frames, lambda frame: root / f"{split}annot" / frame.name, dataset="camvid")
    return ImageFolders(frames, labels, class_names=CLASS_NAMES, ignore_index=VOID, camera=camera)
