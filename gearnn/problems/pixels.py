"""Frames as networks take them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Channels = tuple[float, float, float]
"""A value for each of red, green, blue."""


def normalised(pixels: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Frames with a mean of about 0 and a spread of about 1.

    Args:
        pixels: uint8 [B, H, W, 3], RGB.
        mean: of the channels, of values in [0, 1].
        std: of the channels.

    Returns:
        float32 [B, 3, H, W].
    """
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255.0)
    middle, spread = _as_channels(images, mean, std)
    return (images - middle) / spread


def denormalised(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """The inverse of :func:`normalised`: float32 [B, 3, H, W] in [0, 1]."""
    middle, spread = _as_channels(images, mean, std)
    return images * spread + middle


def renormalised(pixels: Sequence[Tensor], mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Frames of one size, float32 [3, H, W] in [0, 1] each, as :func:`normalised` gives them; differentiable."""
    images = torch.stack(list(pixels))
    middle, spread = _as_channels(images, mean, std)
    return (images - middle) / spread


def _as_channels(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    middle, spread = (images.new_tensor(list(values)).view(1, 3, 1, 1) for values in (mean, std))
    return middle, spread
