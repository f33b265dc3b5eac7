"""Mean intersection over union over a whole split."""

import numpy as np
import torch
from torch import Tensor

from gearnn.metrics.interval import Interval, resampled


class SegmentationScore:
    """Mean intersection over union (mIoU) of a split, in percent.

    One confusion matrix over all frames: with n_ij pixels of true class i predicted as j,
    ``IoU_i = n_ii / (sum_j n_ij + sum_j n_ji - n_ii)``, and the mean goes over the classes that occur
    in the truth or the prediction. Pixels labelled ``ignore_index`` take no part. Of every frame only
    the cells of its matrix that are not 0 are kept, which are few, for intervals over frames.

    >>> score = SegmentationScore(num_classes=3)
    >>> score.update(torch.tensor([[0, 0, 1]]), torch.tensor([[0, 1, 1]]))
    >>> score.miou, score.per_class
    (50.0, [50.0, 50.0, None])
    """

    primary_name = "miou"

    def __init__(self, num_classes: int, ignore_index: int | None = None) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self._total = np.zeros((num_classes, num_classes), dtype=np.int64)
        self._frames: list[tuple[np.ndarray, np.ndarray]] = []  # cells of a frame's matrix, and their pixels

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Count one frame.

        Args:
            prediction: class of every pixel, integer [H, W], values 0 .. C-1.
            truth: labels of the same shape, values 0 .. C-1 or ``ignore_index``.

        Raises:
            ValueError: the shapes differ, or a class is out of range.
        """
        if prediction.shape != truth.shape:
            raise ValueError(f"expected a prediction of shape {list(truth.shape)}, but got {list(prediction.shape)}")
        truth, prediction = truth.reshape(-1).long(), prediction.reshape(-1).long()
        if self.ignore_index is not None:
            kept = truth != self.ignore_index
            truth, prediction = truth[kept], prediction[kept]
        for what, classes in (("prediction", prediction), ("truth", truth)):
            if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < self.num_classes:
                came = f"{int(classes.min())} to {int(classes.max())}"
                raise ValueError(f"expected a {what} of classes 0 to {self.num_classes - 1}, but got {came}")
        counts = torch.bincount(truth * self.num_classes + prediction, minlength=self.num_classes**2).cpu().numpy()
        self._total += counts.reshape(self._total.shape)
        cells = np.flatnonzero(counts)
        self._frames.append((cells.astype(np.int32), counts[cells]))

    @property
    def confusion(self) -> np.ndarray:
        """Pixels of true class i (row) predicted as j (column), int64 [C, C]."""
        return self._total.copy()

    @property
    def frames(self) -> np.ndarray:
        """The confusion matrix of every frame, int64 [num_frames, C, C]; made anew, and large for many classes."""
        whole = np.zeros((len(self._frames), self.num_classes**2), dtype=np.int64)
        for row, (cells, pixels) in zip(whole, self._frames, strict=True):
            row[cells] = pixels
        return whole.reshape(-1, self.num_classes, self.num_classes)

    @property
    def per_class(self) -> list[float | None]:
        """IoU of every class in percent; None where a class occurs in neither truth nor prediction."""
        return [None if np.isnan(value) else float(value) for value in _iou(*self._overall())]

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that occur, in percent; NaN where none does."""
        return float(_mean_iou(*self._overall()))

    @property
    def primary(self) -> float:
        """The figure by which solutions are compared: mIoU."""
        return self.miou

    @property
    def figures(self) -> dict[str, float]:
        """All figures of the split, in percent."""
        return {"miou": self.miou}

    def interval(self, *, confidence: float = 0.95, num_draws: int = 1000, seed: int = 0) -> Interval:
        """Bootstrap interval of the mIoU over frames drawn with replacement.

        Says how much the figure depends on which frames the split happens to hold, not on the seed
        of the training.
        """
        return Interval.of(self.draws(num_draws=num_draws, seed=seed), confidence)

    def draws(self, *, num_draws: int = 1000, seed: int = 0) -> np.ndarray:
        """The mIoU of many draws of frames, float64 [num_draws]; see :func:`gearnn.metrics.interval.gained`."""
        hits, either = self._by_frame()  # an IoU needs no more of a frame than two numbers a class
        times = resampled(len(hits), num_draws, seed).astype(np.float64)  # sums of whole numbers below 2^53 are exact
        return _mean_iou(times @ hits, times @ either)

    def _overall(self) -> tuple[np.ndarray, np.ndarray]:
        """The same of all frames together, [C]."""
        hits = np.diagonal(self._total)
        return hits, self._total.sum(1) + self._total.sum(0) - hits

    def _by_frame(self) -> tuple[np.ndarray, np.ndarray]:
        """Of every frame and class: pixels that are right, and pixels that are it or are taken for it, [F, C]."""
        hits, either = (np.zeros((len(self._frames), self.num_classes)) for _ in range(2))
        for index, (cells, pixels) in enumerate(self._frames):
            true, found = np.divmod(cells, self.num_classes)
            right = true == found
            hits[index, true[right]] = pixels[right]
            either[index] = sum(np.bincount(c, pixels, self.num_classes) for c in (true, found)) - hits[index]
        return hits, either


def _iou(hits: np.ndarray, either: np.ndarray) -> np.ndarray:
    """Per-class IoU in percent [..., C] of intersections and unions [..., C]; NaN for absent classes."""
    iou: np.ndarray = 100.0 * np.divide(hits, either, out=np.full(hits.shape, np.nan), where=either > 0)
    return iou


def _mean_iou(hits: np.ndarray, either: np.ndarray) -> np.ndarray:
    iou = _iou(hits, either)
    present = ~np.isnan(iou)
    total = np.where(present, iou, 0.0).sum(-1)
    number = present.sum(-1)
    mean: np.ndarray = np.divide(total, number, out=np.full(number.shape, np.nan), where=number > 0)
    return mean
