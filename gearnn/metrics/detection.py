"""Average precision of boxes and masks, as COCO defines it, over a whole split.

For every class and every intersection over union from 0.50 to 0.95 the detections of all frames are
ranked by score, each truth is given to the best-ranked detection that overlaps it enough, and AP is the
mean of the interpolated precision at 101 recalls; the figure is the mean over overlaps and classes.
Per frame at most 100 detections of a class count. pycocotools gives the same figures for the same
detections; unlike it, this keeps of a frame only which detections matched, never a mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from gearnn.datasets.instances import Instances
from gearnn.metrics.interval import Interval, resampled

OVERLAPS = np.linspace(0.5, 0.95, 10)
"""Intersections over union from which on a detection counts as a hit."""

_RECALLS = np.linspace(0.0, 1.0, 101)
_MAX_DETECTIONS = 100
_FEWEST_DRAWS, _RANKED = 100, 50_000_000


@dataclass(frozen=True, kw_only=True)
class Detections:
    """What a network found in one frame.

    Attributes:
        boxes: x1, y1, x2, y2 in pixels, float32 [n, 4].
        labels: classes, int64 [n].
        scores: 0 to 1, float32 [n].
        masks: bool [n, H, W].
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    masks: Tensor


@dataclass(frozen=True)
class _Matched:
    """What is kept of one class in one frame: scores [n], hits and ignored ones [overlaps, n], truths to find."""

    scores: np.ndarray
    hits: np.ndarray
    ignored: np.ndarray
    num_truths: int


class InstanceScore:
    """AP of masks and boxes of a split, in percent; the mask AP compares solutions."""

    primary_name = "mask_ap"

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._frames: dict[str, list[dict[int, _Matched]]] = {"mask": [], "box": []}

    def update(self, prediction: Detections, truth: Instances) -> None:
        """Count one frame.

        Raises:
            ValueError: the masks are of another size than those of the truth.
        """
        masks = prediction.masks.numpy()
        if masks.shape[1:] != truth.masks.shape[1:]:
            raise ValueError(f"expected masks of {list(truth.masks.shape[1:])}, but got {list(masks.shape[1:])}")
        labels, scores = prediction.labels.numpy(), prediction.scores.double().numpy()
        boxes = prediction.boxes.double().numpy()
        packed, truths = _packed(masks), _packed(truth.masks)
        found: dict[str, dict[int, _Matched]] = {"mask": {}, "box": {}}
        for label in sorted({*labels.tolist(), *truth.labels.tolist()}):
            ours = np.flatnonzero(labels == label)
            ours = ours[np.argsort(-scores[ours], kind="mergesort")][:_MAX_DETECTIONS]
            theirs = np.flatnonzero(truth.labels == label)
            crowd = truth.crowd[theirs]
            overlaps = {
                "mask": _mask_overlaps(packed[ours], truths[theirs], crowd),
                "box": _box_overlaps(boxes[ours], truth.boxes[theirs].astype(np.float64), crowd),
            }
            for kind, overlap in overlaps.items():
                found[kind][label] = _match(scores[ours], overlap, crowd)
        for kind, matched in found.items():
            self._frames[kind].append(matched)

    @property
    def figures(self) -> dict[str, float]:
        """Mask and box AP, and both at an overlap of 0.50 and 0.75, in percent; NaN where there is no truth."""
        named = {}
        for kind in ("mask", "box"):
            by_overlap = self._by_overlap(kind)  # [classes, overlaps]
            named[f"{kind}_ap"] = _mean(by_overlap)
            named[f"{kind}_ap50"] = _mean(by_overlap[:, 0])
            named[f"{kind}_ap75"] = _mean(by_overlap[:, 5])
        return named

    @property
    def primary(self) -> float:
        """The figure by which solutions are compared: mask AP."""
        return _mean(self._by_overlap("mask"))

    @property
    def per_class(self) -> list[float | None]:
        """Mask AP of every class, the background's place first; None where the split has no truth of a class."""
        values: list[float | None] = [None] * self.num_classes
        for label, row in zip(self._labels(), self._by_overlap("mask"), strict=True):
            if label < self.num_classes and not np.isnan(row).all():
                values[label] = _mean(row)
        return values

    def interval(self, *, confidence: float = 0.95, num_draws: int = 1000, seed: int = 0) -> Interval:
        """Bootstrap interval of the mask AP over frames drawn with replacement."""
        return Interval.of(self.draws(num_draws=num_draws, seed=seed), confidence)

    def draws(self, *, num_draws: int = 1000, seed: int = 0) -> np.ndarray:
        """The mask AP of many draws of frames, float64 [num_draws]; see :func:`gearnn.metrics.interval.gained`.

        Splits with more than 50,000 detections are drawn less often, down to 100 times, because every draw ranks all.
        """
        frames = self._frames["mask"]
        found = sum(len(matched.scores) for frame in frames for matched in frame.values())
        num_draws = min(num_draws, max(_FEWEST_DRAWS, _RANKED // max(found, 1)))
        pooled = [_Pooled([frame.get(label) for frame in frames]) for label in self._labels()]
        return np.array(
            [
                _mean(np.array([one.precision(times) for one in pooled]))
                for times in resampled(len(frames), num_draws, seed)
            ]
        )

    def _labels(self) -> list[int]:
        return sorted({label for frame in self._frames["mask"] for label in frame})

    def _by_overlap(self, kind: str) -> np.ndarray:
        """AP in percent of every class at every overlap [classes, overlaps]; NaN for classes without truth."""
        frames = self._frames[kind]
        rows = [_Pooled([frame.get(label) for frame in frames]).precision() for label in self._labels()]
        return np.array(rows).reshape(-1, len(OVERLAPS))


class _Pooled:
    """One class in all frames, detections ranked by score."""

    def __init__(self, frames: Sequence[_Matched | None]) -> None:
        there = [(index, frame) for index, frame in enumerate(frames) if frame is not None]
        self.truths = np.zeros(len(frames), dtype=int)
        for index, frame in there:
            self.truths[index] = frame.num_truths
        scores = np.concatenate([frame.scores for _, frame in there]) if there else np.zeros(0)
        order = np.argsort(-scores, kind="mergesort")
        self.frame_of = np.concatenate([np.full(len(f.scores), i) for i, f in there])[order] if there else order
        self.hits = np.concatenate([f.hits for _, f in there], axis=1)[:, order] if there else np.zeros((10, 0), bool)
        ignored = [f.ignored for _, f in there]
        self.ignored = np.concatenate(ignored, axis=1)[:, order] if there else np.zeros((10, 0), bool)

    def precision(self, times: np.ndarray | None = None) -> np.ndarray:
        """AP in percent at every overlap [overlaps]; NaN without truth.

        Args:
            times: how often every frame occurs; None once each.
        """
        num_truths = int(self.truths.sum() if times is None else self.truths @ times)
        if num_truths == 0:
            return np.full(len(OVERLAPS), np.nan)
        ranks = slice(None) if times is None else np.repeat(np.arange(len(self.frame_of)), times[self.frame_of])
        counted = ~self.ignored[:, ranks]
        right = (self.hits[:, ranks] & counted).cumsum(axis=1, dtype=float)
        total = counted.cumsum(axis=1, dtype=float)
        return np.array([_interpolated(r, n, num_truths) for r, n in zip(right, total, strict=True)])


def _interpolated(right: np.ndarray, total: np.ndarray, num_truths: int) -> float:
    """Mean precision at 101 recalls in percent, each the best at that recall or a higher one.

    Args:
        right: hits among the first 1, 2, ... detections [n].
        total: how many of them count [n].
        num_truths: truths to find.
    """
    precision = right / (total + np.spacing(1))
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(right / num_truths, _RECALLS, side="left")
    reached = at < len(envelope)
    return 100.0 * float(envelope[at[reached]].sum()) / len(_RECALLS)


def _match(scores: np.ndarray, overlaps: np.ndarray, crowd: np.ndarray) -> _Matched:
    """Give every truth to the best-ranked detection that overlaps it enough.

    A detection takes the free truth that it overlaps most, of equal ones the later; only without one
    it may fall to a crowd, which then neither helps nor harms, and which takes any number of them.

    Args:
        scores: of the detections, falling, [n].
        overlaps: intersection over union [n, g].
        crowd: which truths are crowds, bool [g].
    """
    shape = len(OVERLAPS), len(scores)
    hits, ignored = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    thresholds = np.minimum(OVERLAPS, 1 - 1e-10)[:, None]
    single, crowds = np.flatnonzero(~crowd), np.flatnonzero(crowd)
    free = np.ones((len(OVERLAPS), len(single)), dtype=bool)
    for d in range(len(scores)):
        if len(single):
            fits = free & (overlaps[d, single] >= thresholds)
            ranked = np.where(fits, overlaps[d, single], -1.0)
            best = len(single) - 1 - ranked[:, ::-1].argmax(axis=1)
            hits[:, d] = fits.any(axis=1)
            free[hits[:, d], best[hits[:, d]]] = False
        if len(crowds):
            in_crowd = (overlaps[d, crowds] >= thresholds).any(axis=1) & ~hits[:, d]
            hits[:, d] |= in_crowd
            ignored[:, d] = in_crowd
    return _Matched(scores, hits, ignored, len(single))


def _packed(masks: np.ndarray) -> np.ndarray:
    """Masks bool [n, H, W] with eight pixels a byte, uint8 [n, ceil(H * W / 8)]: counting them takes a tenth."""
    return np.packbits(masks.reshape(len(masks), masks.shape[1] * masks.shape[2]), axis=1)


def _count(packed: np.ndarray) -> np.ndarray:
    counted: np.ndarray = np.bitwise_count(packed).sum(axis=1, dtype=np.int64)
    return counted


def _mask_overlaps(found: np.ndarray, truths: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Intersection over union of packed masks, n found and g truths; over the detection alone for crowds; [n, g]."""
    overlaps = np.zeros((len(found), len(truths)))
    areas, theirs = _count(found), _count(truths)
    for g, truth in enumerate(truths):
        common = _count(found & truth)
        union = areas if crowd[g] else areas + theirs[g] - common
        overlaps[:, g] = np.divide(common, union, out=np.zeros(len(found)), where=union > 0)
    return overlaps


def _box_overlaps(found: np.ndarray, truths: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """The same of boxes x1, y1, x2, y2, float64 [n, 4] and [g, 4]."""
    sides = np.minimum(found[:, None, 2:], truths[None, :, 2:]) - np.maximum(found[:, None, :2], truths[None, :, :2])
    common = np.where((sides > 0).all(axis=2), sides.prod(axis=2), 0.0)
    ours, theirs = ((b[:, 2:] - b[:, :2]).prod(axis=1) for b in (found, truths))
    union = np.where(crowd[None, :], ours[:, None], ours[:, None] + theirs[None, :] - common)
    overlaps: np.ndarray = np.divide(common, union, out=np.zeros(common.shape), where=union > 0)
    return overlaps


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if values.size and not np.isnan(values).all() else float("nan")
