"""Networks as users bring them in, good ones and bad ones; plans name them as ``tests.shared.nets:...``."""

from typing import Any

import torch
from torch import Tensor, nn


class Zoo(nn.Module):
    """A segmentation network with a layer of every kind that owns learnable tensors.

    Transposed, grouped, dilated and depthwise convolutions, Linear with weights tied to an embedding,
    attention, LayerNorm, GroupNorm, BatchNorm, InstanceNorm with statistics, a recurrent layer, and
    bare parameters in a list, a dictionary and the root.
    """

    def __init__(self, num_classes: int, width: int = 8) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.shifts = nn.ParameterList([nn.Parameter(torch.zeros(width, 1, 1)) for _ in range(2)])
        self.gains = nn.ParameterDict({"a": nn.Parameter(torch.ones(width, 1, 1))})
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(width, width, 3, padding=1, groups=2, bias=False)
        self.dilated = nn.Conv2d(width, width, 3, padding=2, dilation=2)
        self.depthwise = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.batchnorm = nn.BatchNorm2d(width)
        self.instancenorm = nn.InstanceNorm2d(width, affine=True, track_running_stats=True)
        self.groupnorm = nn.GroupNorm(2, width)
        self.layernorm = nn.LayerNorm(width)
        self.embedding = nn.Embedding(width, width)
        self.tied = nn.Linear(width, width)
        self.tied.weight = self.embedding.weight
        self.attention = nn.MultiheadAttention(width, 2, dropout=0.1, batch_first=True)
        self.recurrent = nn.GRU(width, width, batch_first=True)
        self.dropout = nn.Dropout(0.2)
        self.up = nn.ConvTranspose2d(width, num_classes, 2, stride=2)
        self.register_buffer("ramp", torch.linspace(0, 1, width))
        self.register_buffer("calls", torch.zeros(1))
        self.fixed = nn.Conv2d(width, width, 1, bias=False)
        self.fixed.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits at the size of the frames, float [B, C, H, W]."""
        if self.training:
            self.calls += 1  # a buffer that moves although it is no statistic
        x = self.stem(x) * self.gains["a"] + self.shifts[0] + self.shifts[1]
        x = self.batchnorm(self.grouped(x)).relu() + self.groupnorm(self.dilated(x))
        x = self.instancenorm(self.depthwise(x)) + self.fixed(x)
        batch, width, _, columns = x.shape
        row = x.mean(dim=2).transpose(1, 2)  # [B, columns, width]
        row = row + self.attention(row, row, row)[0]
        row = self.layernorm(self.tied(self.dropout(row)) + self.embedding(torch.arange(width))[0] + self.ramp)
        row = self.recurrent(row)[0]
        x = x + row.transpose(1, 2).reshape(batch, width, 1, columns)
        return self.up(x) * self.scale


def zoo(num_classes: int, width: int = 8) -> nn.Module:
    """A :class:`Zoo`."""
    return Zoo(num_classes, width)


def without_classes() -> nn.Module:
    """A builder that does not take the number of classes."""
    return Zoo(9)


def tiny_maps(width: int = 8) -> nn.Module:
    """A backbone whose maps a pyramid can stand on."""
    return Maps(width)


class Maps(nn.Module):
    """Feature maps at strides 4, 8 and 16, with BatchNorm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 7, stride=4, padding=3, bias=False), nn.BatchNorm2d(width))
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width))
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps float [B, width, h, w], finest first."""
        maps = [self.stem(x).relu()]
        for stage in self.stages:
            maps.append(stage(maps[-1]).relu())
        return maps


TINY_MASK_RCNN: dict[str, Any] = {
    "backbone": "tests.shared.nets:tiny_maps",
    "pyramid_channels": 8,
    "min_size": 64,
    "max_size": 96,
    "rpn_post_nms_top_n_train": 40,
    "rpn_post_nms_top_n_test": 20,
    "box_batch_size_per_image": 16,
    "box_detections_per_img": 5,
    "box_score_thresh": 0.0,
    "anchor_sizes": [8, 16, 32, 64],
}
"""Arguments of a Mask R-CNN that takes a frame in some milliseconds."""


def raises(num_classes: int) -> nn.Module:
    """A builder that fails."""
    raise ValueError(f"no weights for {num_classes} classes")


def no_module() -> Any:
    """A builder that returns something else."""
    return {"layers": 3}


def lazy(num_classes: int) -> nn.Module:
    """A network that does not know the shapes of its weights yet."""
    return nn.LazyConv2d(num_classes, 1)


def no_forward() -> nn.Module:
    """A network that lacks the method that all of them need."""
    network = nn.Module()
    network.weight = nn.Parameter(torch.zeros(3))
    return network


def all_fixed(num_classes: int) -> nn.Module:
    """A network without anything to adapt."""
    return nn.Conv2d(3, num_classes, 1).requires_grad_(False)


def coarse(num_classes: int) -> nn.Module:
    """A network whose logits are smaller than its frames."""
    return nn.Conv2d(3, num_classes, 3, stride=2, padding=1)
