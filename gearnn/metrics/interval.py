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
        """The interval that holds a share of the figures of many draws, float [num_draws].

        Draws without a figure (NaN) are left out; where all are, so is the interval.
        """
        known = drawn[~np.isnan(drawn)]
        if not len(known):
            return cls(float("nan"), float("nan"))
        tail = (1 - confidence) / 2
        low, high = np.quantile(known, [tail, 1 - tail])
        return cls(float(low), float(high))


def gained(ours: np.ndarray, theirs: np.ndarray, confidence: float = 0.95) -> Interval:
    """The paired bootstrap interval of how much better one solution is than another on the same frames.

    Args:
        ours: what ``draws`` of its score gave, float [num_draws]; equal numbers of frames are drawn alike.
        theirs: the same of the other one; of unequal numbers of draws the first ones count.
        confidence: of the interval.
    """
    number = min(len(ours), len(theirs))
    return Interval.of(ours[:number] - theirs[:number], confidence)


def resampled(num_frames: int, num_draws: int, seed: int) -> np.ndarray:
    """How often every frame occurs when as many frames are drawn with replacement, int32 [num_draws, num_frames]."""
    generator = np.random.default_rng(seed)
    times = np.empty((num_draws, num_frames), dtype=np.int32)
    for row in times if num_frames else ():  # one draw at a time: the picks of all would take three times the memory
        row[:] = np.bincount(generator.integers(0, num_frames, size=num_frames), minlength=num_frames)
    return times
