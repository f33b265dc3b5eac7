"""CamVid, the Cambridge-driving Labeled Video Database (Brostow et al. 2009), in the layout of the SegNet tutorial.

``root/train/*.png`` and ``root/val/*.png`` are frames, ``root/trainannot/*.png`` and
``root/valannot/*.png`` their index masks: 11 classes, 11 for void. Research use only; GearNN neither
ships nor downloads it.
"""

from pathlib import Path

from gearnn.datasets.frames import Camera, ImageFolders
from gearnn.errors import DataError

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


def open_camvid(root: Path, split: str, camera: Camera) -> ImageFolders:
    """One split of CamVid.

    Args:
        root: folder that holds ``<split>`` and ``<split>annot``.
        split: ``train``, ``val`` or ``test``.
        camera: scales frames and labels.

    Raises:
        DataError: a folder is missing or empty, or a frame has no label.
    """
    frames_folder, labels_folder = root / split, root / f"{split}annot"
    for folder in (frames_folder, labels_folder):
        if not folder.is_dir():
            raise DataError(f"data camvid: expected the folder {folder}, but it does not exist")
    frames = sorted(frames_folder.glob("*.png"))
    if not frames:
        raise DataError(f"data camvid: expected PNG frames in {frames_folder}, but it has none")
    labels = [labels_folder / path.name for path in frames]
    for frame, label in zip(frames, labels, strict=True):
        if not label.is_file():
            raise DataError(f"data camvid: frame {frame} has no label, expected {label}")
    return ImageFolders(frames, labels, class_names=CLASS_NAMES, ignore_index=VOID, camera=camera)
