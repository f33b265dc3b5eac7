"""Brightness (section 4.3): the frame's pixel values scaled by a factor, as Pillow's enhancer does it."""

import math
from collections.abc import Mapping

from PIL import Image, ImageEnhance

from gearnn.distortions.kinds import Kind, Parameter
from gearnn.levels import Number


def distort(image: Image.Image, *, factor: float) -> Image.Image:
    """Scale every channel by ``factor`` and clip at 255; 1.0 leaves the frame as it is.

    Args:
        image: RGB, 8 bits a channel.
        factor: relative brightness; the paper uses 0.1 (dark) to 2.0 (overexposed).
    """
    return ImageEnhance.Brightness(image).enhance(factor)


def _octaves(factor: Number) -> float:
    return math.log2(max(factor, 1e-6))


def _distance(a: Mapping[str, Number], b: Mapping[str, Number]) -> float:
    """In octaves (stops): 0.1 is as far from 0.2 as 1.0 is from 2.0."""
    return abs(_octaves(a["factor"]) - _octaves(b["factor"]))


KIND = Kind(
    name="brightness",
    parameters=(Parameter(name="factor", type=float, low=0.05, high=4.0, unit="relative brightness"),),
    pristine={"factor": 1.0},
    distort=distort,
    distance=_distance,
    strength=lambda values: abs(_octaves(values["factor"])),
)
