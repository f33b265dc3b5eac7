"""What every dataset offers: frames as the sensor delivered them, and their truth."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from gearnn.datasets.files import image_size, open_image
from gearnn.distortions.received import to_rgb
from gearnn.errors import DataError

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
        """RGB frame at the camera's size."""
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

    def frame_digest(self, index: int) -> str:
        """sha256 of all that determines :meth:`clip`."""
        ...

    def digest(self) -> str:
        """sha256 of all that determines the frames and the truth of the whole split."""
        ...


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

    def frame(self, index: int) -> Image.Image:
        return self.camera.frame(open_image(self._frames[index]))

    def size(self, index: int) -> tuple[int, int]:
        return self.camera.size or image_size(self._frames[index])

    def clip(self, index: int) -> list[Image.Image]:
        return [*(self.camera.frame(open_image(path)) for path in self._before_of(index)), self.frame(index)]

    def frame_digest(self, index: int) -> str:
        if index not in self._digests:
            files = [*self._before_of(index), self._frames[index]]
            content = " ".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)
            self._digests[index] = hashlib.sha256(f"{content} {self.camera}".encode()).hexdigest()
        return self._digests[index]

    def _before_of(self, index: int) -> list[Path]:
        return self._before[index] if self._before else []


class ImageFolders(FrameFiles):
    """Frames and index masks as pairs of image files.

    Args:
        frames: frame files in order.
        labels: for every frame its mask, 8-bit indices.
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
        return self._open_mask(self._labels[index], index, ("L", "P")).astype(np.uint8)

    def _open_mask(self, path: Path, index: int, modes: tuple[str, ...]) -> np.ndarray:
        mask = open_image(path)
        if mask.mode not in modes:
            raise DataError(f"label {path}: expected one index a pixel ({', '.join(modes)}), but got mode {mask.mode}")
        source = image_size(self._frames[index])
        if mask.size != source:
            raise DataError(f"label {path}: expected the size of its frame, {_by(source)}, but got {_by(mask.size)}")
        return np.array(self.camera.label(mask))

    def digest(self) -> str:
        total = hashlib.sha256(f"{self.class_names} {self.ignore_index}".encode())
        for index, path in enumerate(self._labels):
            total.update(f"{self.name(index)} {self.frame_digest(index)} ".encode())
            total.update(hashlib.sha256(path.read_bytes()).digest())
        return total.hexdigest()

    def _check_range(self, classes: np.ndarray, path: Path) -> None:
        allowed = np.zeros(256, dtype=bool)
        allowed[: len(self.class_names)] = True
        if self.ignore_index is not None:
            allowed[self.ignore_index] = True
        wrong = np.unique(classes[~allowed[classes]])
        if len(wrong):
            void = "" if self.ignore_index is None else f" or {self.ignore_index} for void"
            raise DataError(
                f"label {path}: expected classes 0 to {len(self.class_names) - 1}{void}, but got {wrong[0]}"
                + (f"; if {wrong[0]} is void, data.ignore says so" if self.ignore_index is None else "")
            )


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
