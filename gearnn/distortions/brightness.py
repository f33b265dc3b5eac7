"""Brightness (section 4.3): the frame's pixel values scaled by a factor, as Pillow's enhancer does it.

No file says how bright the sensor's frame was, so the level is found by comparing the frame's
histogram with those of calibration frames at every level (:func:`compare`).
"""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageEnhance, __version__

from gearnn.distortions.kinds import Kind, Parameter, Reference, Values
from gearnn.distortions.received import Received
from gearnn.errors import DataError

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.999)
_SAMPLED = (256, 128)
_FLOOR = 0.01
_ROUNDING = 1e-9

MAX_MISFIT = 5.5
"""Of 10,000 frames that are spread normally around their level's mean, one is farther off (chi, seven features)."""


def distort(image: Image.Image, *, factor: float) -> Image.Image:
    """Scale every channel by ``factor`` and clip at 255; 1.0 leaves the frame as it is.

    Args:
        image: RGB, 8 bits a channel.
        factor: relative brightness; the paper uses 0.1 (dark) to 2.0 (overexposed).
    """
    return ImageEnhance.Brightness(image).enhance(factor)


def measure(received: Received) -> tuple[float, ...]:
    """Quantiles of the luma in stops, log2(1 + luma) with luma from 0 to 255, and the share of saturated pixels.

    At most 256 x 128 pixels are looked at, evenly spread.
    """
    image = received.image
    size = min(image.width, _SAMPLED[0]), min(image.height, _SAMPLED[1])
    histogram = np.array(image.resize(size, Image.Resampling.NEAREST).convert("L").histogram(), dtype=np.float64)
    share = histogram.cumsum() / histogram.sum()
    luma = np.searchsorted(share, QUANTILES)
    return (*np.log2(1.0 + luma).tolist(), float(histogram[255] / histogram.sum()))


def compare(features: Sequence[float], references: Sequence[Reference]) -> tuple[Values, float]:
    """The calibrated level under which these features are most likely: quadratic discriminant analysis.

    Returns:
        (values, misfit), the misfit as the Mahalanobis distance to that level's calibration frames:
        2 to 3 is usual for seven features, beyond ``MAX_MISFIT`` is a frame unlike any of them. Of
        equally likely levels the stronger one.

    Raises:
        DataError: the calibration frames of several levels that fit are alike, so nothing distinguishes them.
    """
    found = [_likelihood(np.array(features), reference) for reference in references]
    least = min(likelihood for likelihood, _ in found)
    most = least + _ROUNDING * max(1.0, abs(least))
    ties = [index for index, (likelihood, _) in enumerate(found) if likelihood <= most]
    best = max(ties, key=lambda index: KIND.strength(references[index].values))
    alike = next((i for i in ties if _alike(references[i], references[best])), None)
    if alike is not None:
        one, other = (references[index].values["factor"] for index in (best, alike))
        raise DataError(
            f"brightness: the calibration frames of factor {one:g} and of {other:g} are alike, so a frame does not say "
            f"which it is; calibrate with frames that have contrast"
        )
    return references[best].values, found[best][1]


def _alike(a: Reference, b: Reference) -> bool:
    """Whether two levels are the same to the sensor."""
    return dict(a.values) != dict(b.values) and np.allclose(a.mean, b.mean) and np.allclose(a.covariance, b.covariance)


def _likelihood(features: np.ndarray, reference: Reference) -> tuple[float, float]:
    """(-2 log likelihood of a normal distribution up to a constant, Mahalanobis distance)."""
    covariance = np.array(reference.covariance) + _FLOOR * np.eye(len(features))
    difference = features - np.array(reference.mean)
    squared = float(difference @ np.linalg.solve(covariance, difference))
    return squared + float(np.linalg.slogdet(covariance)[1]), math.sqrt(max(squared, 0.0))


def _octaves(factor: float) -> float:
    return math.log2(max(factor, 1e-6))


def _distance(a: Values, b: Values) -> float:
    """In octaves (stops): 0.1 is as far from 0.2 as 1.0 is from 2.0."""
    return abs(_octaves(float(a["factor"])) - _octaves(float(b["factor"])))


KIND = Kind(
    name="brightness",
    parameters=(Parameter(name="factor", type=float, low=0.05, high=4.0, unit="relative brightness"),),
    pristine={"factor": 1.0},
    distort=distort,
    features=(*(f"luma {quantile:g} in stops" for quantile in QUANTILES), "saturated"),
    measure=measure,
    compare=compare,
    max_misfit=MAX_MISFIT,
    distance=_distance,
    strength=lambda values: abs(_octaves(float(values["factor"]))),
    version=lambda: f"pillow {__version__}",
)
