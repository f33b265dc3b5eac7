"""What every dataset offers: frames as the sensor delivered them, and their truth."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np
from PIL import Image

from gearnn.datasets.files import image_digest, image_orientation, image_size, mask_digest, open_image
from gearnn.distortions.stills import to_rgb
from gearnn.errors import DataError

_NUMBERED = re.compile(r"(?P<sequence>.*?)([-_. ][A-Za-z]?)?\d+")
_MASK_MODES = ("1", "L", "P", "I;16", "I")

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, kw_only=True)
class Camera:
    """The sensor of a plan: scales a source image to the frame that it would have delivered.

    Attributes:
        size: (width, height) in pixels, or None for the source's own size.
        resample: a key of ``RESAMPLING``, for frames; labels always take the nearest pixel.
    """

    size: tuple[int, int] | None = None
    resample: str = "box"

    def frame(self, image: Image.Image) -> Image.Image:
        """Upright RGB frame at the camera's size."""
        image = to_rgb(image)
        return image if self._fits(image) else image.resize(self._size(image), RESAMPLING[self.resample])

    def label(self, image: Image.Image) -> Image.Image:
        """Index mask at the camera's size."""
        return image if self._fits(image) else image.resize(self._size(image), Image.Resampling.NEAREST)

    def _size(self, image: Image.Image) -> tuple[int, int]:
        return self.size or image.size

    def _fits(self, image: Image.Image) -> bool:
        return self._size(image) == image.size

    def __str__(self) -> str:
        return "source" if self.size is None else f"{self.size[0]}x{self.size[1]}:{self.resample}"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One frame with its truth.

    Attributes:
        image: RGB frame, 8 bits a channel, as the DNN receives it.
        target: what the problem needs as truth; for segmentation classes, uint8 [H, W].
        name: which frame of the dataset it is.
    """

    image: Image.Image
    target: Any
    name: str


class FrameDataset(Protocol):
    """Undistorted frames of one split.

    Attributes:
        class_names: names of the classes, in the order of their indices.
        ignore_index: label of pixels without truth, or None.
    """

    class_names: tuple[str, ...]
    ignore_index: int | None

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Which frame this is, unique within the split."""
        ...

    def frame(self, index: int) -> Image.Image:
        """The undistorted frame that the camera delivers, RGB."""
        ...

    def size(self, index: int) -> tuple[int, int]:
        """(width, height) of the frame that the camera delivers, without decoding it."""
        ...

    def clip(self, index: int) -> list[Image.Image]:
        """The frames before this one, where the dataset has them, and this one as the last."""
        ...

    def target(self, index: int) -> Any:
        """The truth at the camera's size."""
        ...

    def sequence(self, index: int) -> str:
        """The video, or the like, that a frame is taken from; its own name where it stands for itself."""
        ...

    def frame_digest(self, index: int) -> str:
        """sha256 of all that determines :meth:`clip`."""
        ...

    def digest(self) -> str:
        """sha256 of all that determines the frames and the truth of the whole split."""
        ...


class Around:
    """A dataset around another one: what it does not have itself is the other's.

    Args:
        dataset: the other one.
    """

    def __init__(self, dataset: FrameDataset) -> None:
        self._dataset = dataset
        self.class_names, self.ignore_index = dataset.class_names, dataset.ignore_index

    def __len__(self) -> int:
        return len(self._dataset)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # while being unpickled in a worker
            raise AttributeError(name)
        return getattr(self._dataset, name)


class FrameFiles:
    """Image files as frames: the part that all datasets in folders have in common.

    Args:
        frames: frame files in order.
        class_names: names of classes 0 .. C-1.
        ignore_index: label of frames' parts without truth, or None.
        camera: the sensor of the plan.
        before: for every frame the files of the frames before it, in order.
    """

    def __init__(
        self,
        frames: Sequence[Path],
        *,
        class_names: tuple[str, ...],
        ignore_index: int | None,
        camera: Camera,
        before: Sequence[Sequence[Path]] = (),
    ) -> None:
        self._frames = list(frames)
        self._before = [list(paths) for paths in before]
        self.class_names = class_names
        self.ignore_index = ignore_index
        self.camera = camera
        self._digests: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._frames)

    def name(self, index: int) -> str:
        return self._frames[index].stem

    def sequence(self, index: int) -> str:
        """The name without the number at its end: ``0001TP`` of ``0001TP_006690``."""
        name = self.name(index)
        found = _NUMBERED.fullmatch(name)
        return found["sequence"] if found else name

    def frame(self, index: int) -> Image.Image:
        return self.camera.frame(open_image(self._frames[index]))

    def size(self, index: int) -> tuple[int, int]:
        return self.camera.size or image_size(self._frames[index])

    def clip(self, index: int) -> list[Image.Image]:
        return [*(self.camera.frame(open_image(path)) for path in self._before_of(index)), self.frame(index)]

    def frame_digest(self, index: int) -> str:
        if index not in self._digests:
            files = [*self._before_of(index), self._frames[index]]
            content = " ".join(map(image_digest, files))  # of upright files as it always was: no frame is made anew
            self._digests[index] = hashlib.sha256(f"{content} {self.camera}".encode()).hexdigest()
        return self._digests[index]

    def _before_of(self, index: int) -> list[Path]:
        return self._before[index] if self._before else []


class Unlabelled(FrameFiles):
    """Frames without truth; a base can answer for it, see :mod:`gearnn.plan.answered`."""

    truth = "none"

    def target(self, index: int) -> None:
        return None

    def digest(self) -> str:
        total = hashlib.sha256(f"unlabelled {self.class_names}".encode())
        for index in range(len(self)):
            total.update(f"{self.name(index)} {self.frame_digest(index)} ".encode())
        return total.hexdigest()


class ImageFolders(FrameFiles):
    """Frames and index masks as pairs of image files.

    Args:
        frames: frame files in order.
        labels: for every frame its mask, indices of at most 16 bits.
        class_names: names of classes 0 .. C-1.
        ignore_index: label of void pixels.
        camera: the sensor of the plan.
        classes: for every value of a mask its class, uint8 [256]; None where masks hold classes.
        before: for every frame the files of the frames before it, in order.
    """

    def __init__(
        self,
        frames: Sequence[Path],
        labels: Sequence[Path],
        *,
        class_names: tuple[str, ...],
        ignore_index: int | None,
        camera: Camera,
        classes: np.ndarray | None = None,
        before: Sequence[Sequence[Path]] = (),
    ) -> None:
        super().__init__(frames, class_names=class_names, ignore_index=ignore_index, camera=camera, before=before)
        self._labels, self._classes = list(labels), classes

    def target(self, index: int) -> np.ndarray:
        """Classes of the pixels, uint8 [H, W].

        Raises:
            DataError: the file is unreadable, not an index mask, of another size than its frame, or
                holds a class out of range.
        """
        classes = self.mask(index)
        if self._classes is not None:
            classes = self._classes[classes]
        self._check_range(classes, self._labels[index])
        return classes

    def mask(self, index: int) -> np.ndarray:
        """What the label file holds at the camera's size, uint8 [H, W]; errors as for :meth:`target`."""
        mask = self._open_mask(self._labels[index], index)
        if mask.max(initial=0) > 255:
            self._refuse(int(mask[mask > 255][0]), self._labels[index])
        return mask.astype(np.uint8)

    def _open_mask(self, path: Path, index: int) -> np.ndarray:
        """One index a pixel at the camera's size, from 1, 8 or 16 bits; masks belong to the upright frame."""
        mask = open_image(path)
        if mask.mode not in _MASK_MODES:
            raise DataError(f"label {path}: expected one index a pixel, of at most 16 bits, but got mode {mask.mode}")
        source = image_size(self._frames[index])
        if mask.size != source:
            raise DataError(
                f"label {path}: expected the size of its frame, {_by(source)}, but got {_by(mask.size)}"
                + self._turned(index, mask.size == source[::-1])
            )
        return np.array(self.camera.label(mask))

    def _turned(self, index: int, is_sideways: bool) -> str:
        """That orientation may be why a mask does not fit."""
        orientation = image_orientation(self._frames[index])
        if orientation == 1:
            return "; perhaps one of them was turned by its EXIF orientation and saved without it" * is_sideways
        return (
            f"; the frame is turned upright by its EXIF orientation {orientation}, and masks belong to the upright "
            f"picture: turn the mask, or save the frame without the orientation that the mask was drawn without"
        )

    def digest(self) -> str:
        total = hashlib.sha256(f"{self.class_names} {self.ignore_index}".encode())
        for index, path in enumerate(self._labels):
            total.update(f"{self.name(index)} {self.frame_digest(index)} ".encode())
            total.update(mask_digest(path))
        return total.hexdigest()

    def _check_range(self, classes: np.ndarray, path: Path) -> None:
        allowed = np.zeros(256, dtype=bool)
        allowed[: len(self.class_names)] = True
        if self.ignore_index is not None:
            allowed[self.ignore_index] = True
        wrong = np.unique(classes[~allowed[classes]])
        if len(wrong):
            is_binary = len(self.class_names) == 2 and set(np.unique(classes)) <= {0, 255}
            self._refuse(int(wrong[0]), path, is_binary=is_binary)

    def _refuse(self, value: int, path: Path, *, is_binary: bool = False) -> NoReturn:
        void = "" if self.ignore_index is None else f" or {self.ignore_index} for void"
        advice = f"; if {value} is void, data.ignore says so" if self.ignore_index is None and value <= 255 else ""
        if is_binary:
            advice = f"; masks hold 0 and 1, so where 255 is the second class, write 1 there{advice}"
        raise DataError(
            f"label {path}: expected classes 0 to {len(self.class_names) - 1}{void}, but got {value}{advice}"
        )


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
