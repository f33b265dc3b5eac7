"""Cityscapes (Cordts et al. 2016) in its own layout, with the 19 classes of its benchmark.

``root/leftImg8bit/<split>/<city>/<name>_leftImg8bit.png`` are frames of 2048x1024,
``root/gtFine/<split>/<city>/<name>_gtFine_labelIds.png`` their masks of label ids. Where
``root/leftImg8bit_sequence`` is there too (30 frames a snippet, the 20th is labelled), encoders of video
may see the frames before a labelled one. The download needs a login at cityscapes-dataset.com, so
GearNN cannot fetch it: unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip into one folder.
"""

import re
from pathlib import Path

import numpy as np

from gearnn.datasets.files import images_in, paired
from gearnn.datasets.frames import Camera, ImageFolders
from gearnn.errors import DataError

CLASS_NAMES = (
    "road",
    "sidewalk",
    "building",
    "wall",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
)
IGNORE = 255
SIZE = (2048, 1024)
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Label id of every class in the mask files; all other ids (0 to 33, and 255 for -1) are ignored."""

_FRAME, _LABEL = "_leftImg8bit.png", "_gtFine_labelIds.png"
_NAME = re.compile(r".+_\d{6}_\d{6}" + re.escape(_FRAME))
_HIGHEST_ID = 33
_HINT = "unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip there (cityscapes-dataset.com, with a login)"


class Cityscapes(ImageFolders):
    """Frames of streets; a city is one drive or several, so it counts as one sequence."""

    def sequence(self, index: int) -> str:
        """The city."""
        return self._frames[index].parent.name


def folders(split: str) -> tuple[str, ...]:
    """Folders of the dataset that a split needs."""
    return f"leftImg8bit/{split}", f"gtFine/{split}", f"leftImg8bit_sequence/{split}"


def open_cityscapes(root: Path, split: str, camera: Camera, *, clip: int = 1) -> "Cityscapes":
    """One split of Cityscapes.

    Args:
        root: folder that holds ``leftImg8bit`` and ``gtFine``.
        split: ``train`` or ``val``; the labels of ``test`` are not published.
        camera: scales frames and labels.
        clip: frames that encoders of video see, the labelled one included; above 1 needs
            ``leftImg8bit_sequence``.

    Raises:
        DataError: a folder is missing or empty, a frame has no label or no frames before it.
    """
    folder = root / "leftImg8bit" / split
    if not folder.is_dir():
        raise DataError(f"data cityscapes: expected the folder {folder}, but it does not exist; {_HINT}")
    cities = sorted(path for path in folder.iterdir() if path.is_dir())
    frames = [frame for city in cities for frame in images_in(city, dataset="cityscapes", suffixes=(".png",))]
    if not frames:
        raise DataError(f"data cityscapes: expected a folder for every city in {folder}, but it has none; {_HINT}")
    odd = next((frame for frame in frames if not _NAME.fullmatch(frame.name)), None)
    if odd is not None:
        raise DataError(f"data cityscapes: expected frames named <city>_<sequence>_<frame>{_FRAME}, but got {odd}")
    labels = paired(
        frames,
        lambda frame: root / "gtFine" / split / frame.parent.name / frame.name.replace(_FRAME, _LABEL),
        dataset="cityscapes",
    )
    before = [_before(root, split, frame, clip - 1) for frame in frames] if clip > 1 else []
    return Cityscapes(
        frames,
        labels,
        class_names=CLASS_NAMES,
        ignore_index=IGNORE,
        camera=camera,
        classes=classes_of_ids(),
        before=before,
    )


def classes_of_ids() -> np.ndarray:
    """Class of every label id, uint8 [256]; ids that Cityscapes does not define stay out of the classes' range."""
    classes = np.arange(256, dtype=np.uint8)
    classes[: _HIGHEST_ID + 1] = IGNORE
    classes[list(LABEL_IDS)] = np.arange(len(LABEL_IDS))
    return classes


def _before(root: Path, split: str, frame: Path, number: int) -> list[Path]:
    """The ``number`` frames of the sequence right before a labelled one; fewer only at the start of a snippet."""
    city, sequence, position = frame.name.removesuffix(_FRAME).rsplit("_", 2)
    folder = root / "leftImg8bit_sequence" / split / frame.parent.name
    found: list[Path] = []
    for back in range(1, number + 1):
        earlier = folder / f"{city}_{sequence}_{int(position) - back:06d}{_FRAME}"
        if not earlier.is_file():
            break
        found.insert(0, earlier)
    if not found:
        raise DataError(
            f"data cityscapes: clip: expected the frames before {frame.name} in {folder}, but there are none; "
            f"unpack leftImg8bit_sequence_trainvaltest.zip, or leave clip out"
        )
    return found
