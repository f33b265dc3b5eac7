"""Truth for the frames of a stream, from masks in a folder."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gearnn.datasets.instances import Instances
from gearnn.distortions.stills import upright
from gearnn.errors import StreamError
from gearnn.problems.problem import Problem


class Truth:
    """Masks by the names of frames: ``masks/<segment>-<k>.png``, or ``masks/<segment>.png`` where k is 0.

    ``<segment>`` is a segment's name: the name of its file in a folder, its number of five digits in a
    manifest, the number of its first frame of six digits in a video; k counts its frames from 0. For
    instances there is a folder ``instances`` beside, with the number of the instance in every pixel.

    Args:
        folder: that holds ``masks``.
        problem: says whether truth is classes of pixels or instances.

    Raises:
        StreamError: no such folder, or a problem whose truth is not in masks.
    """

    def __init__(self, folder: str | Path, problem: Problem) -> None:
        self._folder, self._kind = Path(folder), problem.truth
        self._num_classes: int | None = getattr(problem, "num_classes", None)
        self._ignored: int | None = getattr(problem, "ignore_index", None)
        if problem.truth == "class":
            raise StreamError(f"{folder}: expected a problem with masks as truth, but the base classifies whole frames")
        wanted = ("masks", "instances") if problem.truth == "instances" else ("masks",)
        for name in wanted:
            if not (self._folder / name).is_dir():
                raise StreamError(f"{folder}: expected a folder {name} with the truth of frames, but there is none")

    def __call__(self, segment: str, index: int, size: tuple[int, int]) -> Any:
        """The truth of frame ``index`` of a segment, as the problem takes it; None where there is none.

        Args:
            segment: its name.
            index: of the frame within it.
            size: (width, height) of the frame; masks may be larger, because levels scale frames down.

        Raises:
            StreamError: the file is no mask, or one of another frame or problem.
        """
        names = [f"{segment}-{index}.png", *([f"{segment}.png"] if index == 0 else [])]
        name = next((name for name in names if (self._folder / "masks" / name).is_file()), None)
        if name is None:
            return None
        classes = self._read(self._folder / "masks" / name, size)
        if self._kind == "classes":
            self._check_range(classes, self._folder / "masks" / name)
            return classes
        numbers = self._read(self._folder / "instances" / name, size)
        if numbers.shape != classes.shape:
            raise StreamError(
                f"{self._folder / 'instances' / name}: expected the size of its mask, {list(classes.shape)}, "
                f"but got {list(numbers.shape)}"
            )
        return Instances.of_masks(numbers, classes)

    def _check_range(self, classes: np.ndarray, path: Path) -> None:
        labels = np.unique(classes)
        wrong = labels[(labels >= (self._num_classes or np.inf)) & (labels != self._ignored)]
        if len(wrong):
            void = "" if self._ignored is None else f" or {self._ignored} for void"
            raise StreamError(f"{path}: expected classes 0 to {(self._num_classes or 0) - 1}{void}, but got {wrong[0]}")

    def _read(self, path: Path, size: tuple[int, int]) -> np.ndarray:
        try:
            with Image.open(path) as image:
                mask = np.array(upright(image))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise StreamError(f"{path}: expected a mask: {' '.join(str(error).split())}") from error
        if mask.ndim != 2:
            raise StreamError(f"{path}: expected a mask of one channel, but got {image.mode}")
        (width, height), (rows, columns) = size, mask.shape
        if (width - height) * (columns - rows) < 0:
            raise StreamError(
                f"{path}: expected a mask as its frame is seen, {width}x{height}, but got {columns}x{rows}; frames are "
                f"turned upright by their orientation, and masks belong to upright frames"
            )
        if columns < width or rows < height:
            raise StreamError(
                f"{path}: expected a mask at least as large as its frame, {width}x{height}, but got {columns}x{rows}"
            )
        return mask
