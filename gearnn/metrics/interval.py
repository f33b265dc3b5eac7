"""How much a figure depends on which frames a split happens to hold."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A bootstrap interval, in the unit of the score."""

    low: float
    high: float

    @classmethod
    def of(cls, drawn: np.ndarray, confidence: float) -> "Interval":
        """The interval that holds a share of the figures of many draws, float [num_draws]; NaN ones are left out."""
        tail = (1 - confidence) / 2
        low, high = np.nanquantile(drawn, [tail, 1 - tail])
        return cls(float(low), float(high))


def resampled(num_frames: int, num_draws: int, seed: int) -> np.ndarray:
    """How often every frame occurs when as many frames are drawn with replacement, int [num_draws, num_frames]."""
    picks = np.random.default_rng(seed).integers(0, num_frames, size=(num_draws, num_frames))
    return np.stack([np.bincount(pick, minlength=num_frames) for pick in picks])
