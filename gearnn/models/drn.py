"""Dilated residual networks (Yu, Koltun and Funkhouser, CVPR 2017), architecture D, with a segmentation head.

Tensor names are those of the authors' public checkpoints (``base.0.0.weight`` ... ``seg.weight``,
``up.weight``), so these load as they are. Output stride 8. Shapes: B frames, H x W pixels, C classes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

_CHANNELS = (16, 32, 64, 128, 256, 512, 512, 512)
STRIDE = 8


class _Basic(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, channels: int, stride: int, dilation: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = _conv3(inputs, channels, stride, dilation)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv3(channels, channels, 1, dilation)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        out: Tensor = self.relu(self.bn2(self.conv2(x)) + shortcut)
        return out


class _Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut; four times as many channels leave as the middle has."""

    expansion = 4

    def __init__(self, inputs: int, channels: int, stride: int, dilation: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv3(channels, channels, stride, dilation)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels * 4)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        out: Tensor = self.relu(self.bn3(self.conv3(x)) + shortcut)
        return out


class _Architecture(NamedTuple):
    block: type[_Basic] | type[_Bottleneck]
    blocks: tuple[int, ...]  # of the eight levels
    channels: tuple[int, ...] = _CHANNELS


ARCHITECTURES = {
    "drn_d_22": _Architecture(_Basic, (1, 1, 2, 2, 2, 2, 1, 1)),
    "drn_d_38": _Architecture(_Basic, (1, 1, 3, 4, 6, 3, 1, 1)),
    "drn_d_54": _Architecture(_Bottleneck, (1, 1, 3, 4, 6, 3, 1, 1)),
    "drn_d_105": _Architecture(_Bottleneck, (1, 1, 3, 4, 23, 3, 1, 1)),
    # Not of the authors: D-22 at a quarter of its width, small enough to train in minutes on a CPU.
    "drn_d_22_quarter": _Architecture(_Basic, (1, 1, 2, 2, 2, 2, 1, 1), (8, 8, 16, 32, 64, 128, 128, 128)),
}


class DRN(nn.Module):
    """A DRN-D for semantic segmentation.

    Args:
        architecture: a key of ``ARCHITECTURES``.
        num_classes: C.
    """

    stride = STRIDE

    def __init__(self, architecture: str, num_classes: int) -> None:
        super().__init__()
        block, blocks, channels = ARCHITECTURES[architecture]
        stem = nn.Sequential(
            nn.Conv2d(3, channels[0], 7, padding=3, bias=False), nn.BatchNorm2d(channels[0]), nn.ReLU(inplace=True)
        )
        grower = _Levels(channels[0])
        self.base = nn.Sequential(
            stem,
            grower.plain(channels[0], blocks[0], stride=1, dilation=1),
            grower.plain(channels[1], blocks[1], stride=2, dilation=1),
            grower.residual(block, channels[2], blocks[2], stride=2, dilation=1),
            grower.residual(block, channels[3], blocks[3], stride=2, dilation=1),
            grower.residual(block, channels[4], blocks[4], stride=1, dilation=2),
            grower.residual(block, channels[5], blocks[5], stride=1, dilation=4),
            grower.plain(channels[6], blocks[6], stride=1, dilation=2),
            grower.plain(channels[7], blocks[7], stride=1, dilation=1),
        )
        self.seg = nn.Conv2d(channels[7], num_classes, 1)
        self.up = nn.ConvTranspose2d(num_classes, num_classes, 16, stride=8, padding=4, groups=num_classes, bias=False)
        self._initialise()

    def forward(self, x: Tensor) -> Tensor:
        """Class scores of every pixel.

        Args:
            x: normalised frames, float [B, 3, H, W]; H and W are multiples of 8.

        Returns:
            Logits, float [B, C, H, W]. The authors' log-softmax is part of the loss here.
        """
        scores: Tensor = self.up(self.seg(self.base(x)))
        return scores

    def _initialise(self) -> None:
        """As the authors: normal weights by fan-out, unit BatchNorm, a fixed bilinear upsampling."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.up.weight.copy_(bilinear_kernel(16).expand_as(self.up.weight))
        self.up.weight.requires_grad_(False)


class _Levels:
    """Builds the levels of a DRN one after the other; knows how many channels the last one left."""

    def __init__(self, channels: int) -> None:
        self.channels = channels

    def plain(self, channels: int, num: int, *, stride: int, dilation: int) -> nn.Sequential:
        modules: list[nn.Module] = []
        for index in range(num):
            convolution = _conv3(self.channels, channels, stride if index == 0 else 1, dilation)
            modules += [convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
            self.channels = channels
        return nn.Sequential(*modules)

    def residual(
        self, block: type[_Basic] | type[_Bottleneck], channels: int, num: int, *, stride: int, dilation: int
    ) -> nn.Sequential:
        out = channels * block.expansion
        downsample = None
        if stride != 1 or self.channels != out:
            downsample = nn.Sequential(nn.Conv2d(self.channels, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out))
        blocks = [block(self.channels, channels, stride, dilation, downsample)]
        blocks += [block(out, channels, 1, dilation, None) for _ in range(1, num)]
        self.channels = out
        return nn.Sequential(*blocks)


def _conv3(inputs: int, outputs: int, stride: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)


def bilinear_kernel(size: int) -> Tensor:
    """Weights with which a transposed convolution interpolates bilinearly.

    Args:
        size: height and width of the kernel, even.

    Returns:
        float32 [size, size], separable and symmetric.

    >>> bilinear_kernel(4)[0].tolist()
    [0.0625, 0.1875, 0.1875, 0.0625]
    """
    factor = (size + 1) // 2
    centre = (2 * factor - 1 - factor % 2) / (2.0 * factor)
    line = 1 - (torch.arange(size, dtype=torch.float32) / factor - centre).abs()
    return torch.outer(line, line)


def names() -> Sequence[str]:
    """Names that :func:`gearnn.models.load_model` knows as DRNs."""
    return tuple(ARCHITECTURES)
