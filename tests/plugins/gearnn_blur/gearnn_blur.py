"""Defocus: a Gaussian blur of the whole frame, by torchvision's transform.

Level ``blur:sigma=2`` is a standard deviation of 2 pixels. How sharp a frame was before cannot be read
from its bytes, so the level is found by comparison with calibration frames: by their log2 contrast
between neighbouring pixels.
"""

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
import torchvision
from PIL import Image
from torchvision.transforms import v2

from gearnn.distortions import Kind, Parameter, Received, Reference
from gearnn.distortions.kinds import Values


def distort(image: Image.Image, *, sigma: float) -> Image.Image:
    """Blur a frame.

    Args:
        image: RGB, 8 bits a channel.
        sigma: standard deviation in pixels.
    """
    radius = math.ceil(3 * sigma)
    return cast(Image.Image, v2.GaussianBlur(kernel_size=2 * radius + 1, sigma=sigma)(image))


def measure(received: Received) -> tuple[float, ...]:
    """log2 of the mean difference between neighbouring pixels of the luma, across and down."""
    luma = np.asarray(received.image.convert("L"), dtype=np.float64)
    return tuple(math.log2(1e-3 + float(np.abs(np.diff(luma, axis=axis)).mean())) for axis in (0, 1))


def compare(features: Sequence[float], references: Sequence[Reference]) -> tuple[Values, float]:
    """The calibrated level whose mean contrast is nearest; the misfit in octaves."""
    nearest = min(references, key=lambda reference: math.dist(features, reference.mean))
    return nearest.values, math.dist(features, nearest.mean)


KIND = Kind(
    name="blur",
    parameters=(Parameter(name="sigma", type=float, low=0.0, high=20.0, unit="pixels"),),
    pristine={"sigma": 0.0},
    distort=distort,
    features=("log2 contrast across", "log2 contrast down"),
    measure=measure,
    compare=compare,
    distance=lambda a, b: abs(float(a["sigma"]) - float(b["sigma"])),
    strength=lambda values: float(values["sigma"]),
    version=lambda: f"torchvision {torchvision.__version__}",
)
