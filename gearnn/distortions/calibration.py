"""Calibration: what kinds measure on frames of known levels, for levels that no bytes state.

It travels with every adaptor: that of the adaptor's own level, and that of undistorted frames. So a
gearbox can sense whatever levels its adaptors are for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from gearnn.distortions.kinds import Values
from gearnn.distortions.received import Received
from gearnn.distortions.registry import kind_of
from gearnn.errors import DataError
from gearnn.levels import DistortionLevel

_MOST_FRAMES = 200


class EncodedFrames(Protocol):
    """Frames as a device at one level sends them, such as :class:`gearnn.datasets.DistortedDataset`."""

    level: DistortionLevel

    def __len__(self) -> int: ...

    def encoded(self, index: int) -> bytes:
        """The bytes of one frame."""
        ...


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What one kind measures on frames of one level.

    Attributes:
        kind: name of the kind that measured.
        level: of the frames; for undistorted frames ``pristine``.
        mean: mean of the kind's features.
        covariance: their covariance, row by row.
        num_frames: how many frames were measured.
        features: names of the features.
    """

    kind: str
    level: DistortionLevel
    features: tuple[str, ...]
    mean: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    num_frames: int

    def to_json(self) -> dict[str, Any]:
        """As JSON values; :meth:`from_json` is the inverse."""
        return {
            "kind": self.kind,
            "level": str(self.level),
            "features": list(self.features),
            "mean": list(self.mean),
            "covariance": [list(row) for row in self.covariance],
            "num_frames": self.num_frames,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Calibration":
        """The inverse of :meth:`to_json`; raises KeyError, TypeError or ValueError on anything else."""
        features = tuple(map(str, content["features"]))
        mean, covariance = np.array(content["mean"], dtype=float), np.array(content["covariance"], dtype=float)
        count = len(features)
        if mean.shape != (count,) or covariance.shape != (count, count):
            raise ValueError(f"expected a mean and a covariance of {count} features, but got {covariance.shape}")
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            raise ValueError("expected finite calibration values")
        if not np.allclose(covariance, covariance.T) or np.linalg.eigvalsh(covariance).min() < -1e-6:
            raise ValueError("expected a covariance, symmetric and without negative variances")
        return cls(
            kind=str(content["kind"]),
            level=DistortionLevel.parse(content["level"]),
            features=features,
            mean=tuple(mean.tolist()),
            covariance=tuple(tuple(row) for row in covariance.tolist()),
            num_frames=int(content["num_frames"]),
        )

    @property
    def values(self) -> Values:
        """Where the level stands on the kind's own scale."""
        for part in self.level.parts:
            if part.kind == self.kind:
                return dict(part.parameters)
        return kind_of(self.kind).pristine


def needs_calibration(level: DistortionLevel) -> list[str]:
    """Kinds of a level that are sensed by comparison with calibration frames."""
    return [part.kind for part in level.parts if kind_of(part.kind).compare is not None]


def calibrate(frames: EncodedFrames, kinds: Sequence[str]) -> list[Calibration]:
    """Measure frames of one level, at most 200 of them, evenly spread.

    Args:
        frames: of the training split, at the level.
        kinds: which kinds measure, see :func:`needs_calibration`.

    Raises:
        DataError: there are no frames, or a kind measures what is no finite number.
    """
    if not kinds:
        return []
    if len(frames) == 0:
        raise DataError(f"expected frames of {frames.level} to calibrate {', '.join(kinds)}, but got none")
    count = min(len(frames), _MOST_FRAMES)
    measured: dict[str, list[tuple[float, ...]]] = {kind: [] for kind in kinds}
    for index in range(count):
        received = Received(frames.encoded(index * len(frames) // count))
        for kind, found in measured.items():
            measure = kind_of(kind).measure
            assert measure is not None, "needs_calibration names kinds that measure"
            found.append(measure(received))
    return [_calibration(kind, frames.level, np.array(found, dtype=np.float64)) for kind, found in measured.items()]


def _calibration(kind: str, level: DistortionLevel, features: np.ndarray) -> Calibration:
    """Mean and covariance of features, float64 [frames, features]."""
    if not np.isfinite(features).all():
        raise DataError(f"{kind} at {level}: expected finite features of the calibration frames, but measured others")
    spread = np.cov(features.T, bias=True).reshape(features.shape[1], features.shape[1])
    return Calibration(
        kind=kind,
        level=level,
        features=kind_of(kind).features,
        mean=tuple(features.mean(axis=0).tolist()),
        covariance=tuple(tuple(row) for row in spread.tolist()),
        num_frames=len(features),
    )
