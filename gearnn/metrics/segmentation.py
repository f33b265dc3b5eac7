"""Mean intersection over union over a whole split."""

import numpy as np
import torch
from torch import Tensor

from gearnn.metrics.interval import Interval, resampled


class SegmentationScore:
    """Mean intersection over union (mIoU) of a split, in percent.

    One confusion matrix over all frames: with n_ij pixels of true class i predicted as j,
    ``IoU_i = n_ii / (sum_j n_ij + sum_j n_ji - n_ii)``, and the mean goes over the classes that occur
    in the truth or the prediction. Pixels labelled ``ignore_index`` take no part. The matrix of
    every frame is kept (C x C integers each), for intervals over frames.

    >>> score = SegmentationScore(num_classes=3)
    >>> score.update(torch.tensor([[0, 0, 1]]), torch.tensor([[0, 1, 1]]))
    >>> score.miou, score.per_class
    (50.0, [50.0, 50.0, None])
    """

    primary_name = "miou"

    def __init__(self, num_classes: int, ignore_index: int | None = None) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self._frames: list[np.ndarray] = []

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Count one frame.

        Args:
            prediction: class of every pixel, integer [H, W], values 0 .. C-1.
            truth: labels of the same shape, values 0 .. C-1 or ``ignore_index``.

        Raises:
            ValueError: the shapes differ.
        """
        if prediction.shape != truth.shape:
            raise ValueError(f"expected a prediction of shape {list(truth.shape)}, but got {list(prediction.shape)}")
        truth, prediction = truth.reshape(-1).long(), prediction.reshape(-1).long()
        if self.ignore_index is not None:
            kept = truth != self.ignore_index
            truth, prediction = truth[kept], prediction[kept]
        counts = torch.bincount(truth * self.num_classes + prediction, minlength=self.num_classes**2)
        self._frames.append(counts.reshape(self.num_classes, self.num_classes).cpu().numpy())

    @property
    def confusion(self) -> np.ndarray:
        """Pixels of true class i (row) predicted as j (column), int64 [C, C]."""
        total: np.ndarray = self.frames.sum(axis=0)
        return total

    @property
    def frames(self) -> np.ndarray:
        """The confusion matrix of every frame, int64 [num_frames, C, C]."""
        return np.stack(self._frames) if self._frames else np.zeros((0, self.num_classes, self.num_classes), int)

    @property
    def per_class(self) -> list[float | None]:
        """IoU of every class in percent; None where a class occurs in neither truth nor prediction."""
        return [None if np.isnan(value) else float(value) for value in _iou(self.confusion)]

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that occur, in percent; NaN where none does."""
        return float(_mean_iou(self.confusion))

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
        frames = self.frames
        drawn = np.tensordot(resampled(len(frames), num_draws, seed), frames, axes=1)
        return Interval.of(_mean_iou(drawn), confidence)


def _iou(confusion: np.ndarray) -> np.ndarray:
    """Per-class IoU in percent [..., C] of confusion matrices [..., C, C]; NaN for absent classes."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    union = confusion.sum(-1) + confusion.sum(-2) - hits
    iou: np.ndarray = 100.0 * np.divide(hits, union, out=np.full(hits.shape, np.nan), where=union > 0)
    return iou


def _mean_iou(confusion: np.ndarray) -> np.ndarray:
    iou = _iou(confusion)
    present = ~np.isnan(iou)
    total = np.where(present, iou, 0.0).sum(-1)
    number = present.sum(-1)
    mean: np.ndarray = np.divide(total, number, out=np.full(number.shape, np.nan), where=number > 0)
    return mean
