"""Truth for instance segmentation: the instances of a frame, made from masks of classes and instances."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gearnn.datasets.frames import Around, FrameDataset
from gearnn.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Instances:
    """The objects of one frame; none is allowed.

    Attributes:
        masks: bool [N, H, W].
        labels: classes, int64 [N], from 1 on, because 0 is the background.
        boxes: x1, y1, x2, y2 in pixels, float32 [N, 4]; x2 and y2 are the ends, not the last pixels.
        crowd: masks of many objects, which scores leave out, bool [N].
    """

    masks: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    crowd: np.ndarray

    @classmethod
    def of(cls, masks: np.ndarray, labels: np.ndarray) -> "Instances":
        """Instances with the boxes of their masks.

        Args:
            masks: bool [N, H, W], none of them empty.
            labels: int [N].
        """
        boxes = np.array([_box(mask) for mask in masks], dtype=np.float32).reshape(-1, 4)
        return cls(masks=masks, labels=labels.astype(np.int64), boxes=boxes, crowd=np.zeros(len(labels), dtype=bool))

    @classmethod
    def of_masks(cls, numbers: np.ndarray, classes: np.ndarray) -> "Instances":
        """Instances from two masks.

        Args:
            numbers: instance of every pixel, integer [H, W]; 0 for none.
            classes: class of every pixel, integer [H, W]; an instance has the one that most of its pixels have.
        """
        found = [number for number in np.unique(numbers).tolist() if number != 0]
        masks = np.array([numbers == number for number in found], dtype=bool).reshape(-1, *numbers.shape)
        labels = np.array([np.bincount(classes[mask]).argmax() for mask in masks], dtype=np.int64)
        return cls.of(masks, labels)

    def check(self, name: str, num_classes: int) -> None:
        """Make sure that a network can learn from these.

        Args:
            name: of the frame, for messages.
            num_classes: classes with the background.

        Raises:
            DataError: numbers that differ, an empty mask, a box without area, or a class out of range.
        """
        numbers = {len(self.masks), len(self.labels), len(self.boxes), len(self.crowd)}
        if len(numbers) > 1 or self.masks.ndim != 3 or self.boxes.shape[1:] != (4,):
            raise DataError(
                f"frame {name}: expected as many masks [N, H, W], labels, boxes [N, 4] and crowd flags, but got "
                f"{[list(a.shape) for a in (self.masks, self.labels, self.boxes, self.crowd)]}"
            )
        for mask, box, label in zip(self.masks, self.boxes.tolist(), self.labels.tolist(), strict=True):
            if not mask.any():
                raise DataError(f"frame {name}: expected masks of at least one pixel, but that of {box} is empty")
            if not (np.isfinite(box).all() and box[2] > box[0] and box[3] > box[1]):
                raise DataError(f"frame {name}: expected boxes x1, y1, x2, y2 with an area, but got {box}")
            if not 1 <= label < num_classes:
                raise DataError(f"frame {name}: expected classes 1 to {num_classes - 1}, but got {label}")


class WithInstances(Around):
    """A dataset with :class:`Instances` as the truth of its frames; all else is the dataset's own.

    Args:
        dataset: one that knows the instances of its frames.

    Raises:
        DataError: it knows classes only.
    """

    def __init__(self, dataset: FrameDataset) -> None:
        instances: Callable[[int], np.ndarray] | None = getattr(dataset, "instances", None)
        if instances is None:
            raise DataError(
                f"data: expected frames with instances, but {type(dataset).__name__} has classes only; "
                f"pennfudan and streets have instances, and folder where it has a folder `instances`"
            )
        super().__init__(dataset)
        self._instances = instances

    def target(self, index: int) -> Instances:
        """The instances of a frame.

        Raises:
            DataError: a mask that cannot be used, or an instance without a class.
        """
        instances = Instances.of_masks(self._instances(index), self._dataset.target(index))
        instances.check(self._dataset.name(index), len(self.class_names))
        return instances

    def digest(self) -> str:
        own = getattr(self._dataset, "instances_digest", lambda: "")()  # where they have files of their own
        return hashlib.sha256(f"instances {self._dataset.digest()} {own}".encode()).hexdigest()


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
