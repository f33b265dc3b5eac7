"""Accuracy over a whole split."""

import numpy as np
from torch import Tensor

from gearnn.metrics.interval import Interval, resampled

_TOP = 5


class ClassificationScore:
    """Share of frames whose class was predicted (top-1 accuracy), in percent.

    With more than five classes the share whose class is among the five most likely stands beside it.

    >>> import torch
    >>> score = ClassificationScore(num_classes=2)
    >>> for truth in (0, 1, 1):
    ...     score.update(torch.tensor([0.3, 0.7]), truth)
    >>> round(score.primary, 1), score.per_class
    (66.7, [0.0, 100.0])
    """

    primary_name = "accuracy"

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._truths: list[int] = []
        self._ranks: list[int] = []  # 0 where the true class is the most likely one

    def update(self, prediction: Tensor, truth: int) -> None:
        """Count one frame.

        Args:
            prediction: likelihood of every class, float [C]; of equal ones the lower class comes first.
            truth: its class, 0 .. C-1.

        Raises:
            ValueError: another number of classes, a class out of range, or a prediction that is no number.
        """
        if prediction.shape != (self.num_classes,):
            raise ValueError(f"expected a prediction of shape [{self.num_classes}], but got {list(prediction.shape)}")
        if not 0 <= truth < self.num_classes:
            raise ValueError(f"expected a class from 0 to {self.num_classes - 1}, but got {truth}")
        if bool(prediction.isnan().any()):
            raise ValueError("expected a prediction of numbers, but it has NaN")
        larger = int((prediction > prediction[truth]).sum())
        equal_before = int((prediction[:truth] == prediction[truth]).sum())
        self._truths.append(truth)
        self._ranks.append(larger + equal_before)

    @property
    def primary(self) -> float:
        """The figure by which solutions are compared: top-1 accuracy; NaN without frames."""
        return self._share(np.asarray(self._ranks) < 1)

    @property
    def figures(self) -> dict[str, float]:
        """All figures of the split, in percent."""
        top5 = {"top5_accuracy": self._share(np.asarray(self._ranks) < _TOP)} if self.num_classes > _TOP else {}
        return {"accuracy": self.primary} | top5

    @property
    def per_class(self) -> list[float | None]:
        """Share of every class's frames that were predicted as it; None where it has no frames."""
        hits, truths = np.asarray(self._ranks) < 1, np.asarray(self._truths)
        return [self._share(hits[truths == c]) if (truths == c).any() else None for c in range(self.num_classes)]

    def interval(self, *, confidence: float = 0.95, num_draws: int = 1000, seed: int = 0) -> Interval:
        """Bootstrap interval of the accuracy over frames drawn with replacement."""
        return Interval.of(self.draws(num_draws=num_draws, seed=seed), confidence)

    def draws(self, *, num_draws: int = 1000, seed: int = 0) -> np.ndarray:
        """The accuracy of many draws of frames, float64 [num_draws]; see :func:`gearnn.metrics.interval.gained`."""
        hits = np.asarray(self._ranks) < 1
        drawn = np.array([row[hits].sum() for row in resampled(len(hits), num_draws, seed)]) / max(1, len(hits))
        return 100.0 * drawn if len(hits) else np.full(num_draws, np.nan)

    @staticmethod
    def _share(hits: np.ndarray) -> float:
        return 100.0 * float(hits.mean()) if len(hits) else float("nan")
