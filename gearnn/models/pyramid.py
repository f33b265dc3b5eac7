"""Feature pyramids on any backbone: a torchvision network by name, or a module that a user builds."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from gearnn.errors import CheckpointError, PlanError
from gearnn.models.reference import build, foreign_code, is_reference

STRIDES = (4, 8, 16, 32)
"""Strides of the feature maps that a pyramid is built on."""

_PROBE = (128, 160)  # height and width differ, so that channels in the wrong place show


class Pyramid(nn.Module):
    """A backbone and a feature pyramid network on top, as torchvision's detectors take it.

    Args:
        body: frames float [B, 3, H, W] -> feature maps by name, finest first.
        in_channels: channels of each map.
        out_channels: channels of every map of the pyramid.
    """

    def __init__(self, body: nn.Module, in_channels: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramidNetwork(list(in_channels), out_channels, LastLevelMaxPool())
        self.out_channels = out_channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps of the pyramid, ``0`` the finest, ``pool`` the coarsest; each float [B, out_channels, h, w]."""
        maps: dict[str, Tensor] = self.fpn(_by_name(self.body(images)))
        return maps


def pyramid(backbone: str, out_channels: int, kwargs: Mapping[str, Any]) -> Pyramid:
    """A feature pyramid.

    Args:
        backbone: name of a torchvision classification network (``resnet50``, ``mobilenet_v3_large``),
            or ``package.module:function``; what that returns takes frames [B, 3, H, W] and gives
            two or more feature maps [B, C, h, w] as a list, a tuple or a dictionary, finest first.
        out_channels: channels of every map of the pyramid.
        kwargs: for the network or the function.

    Raises:
        CheckpointError: no such network, or none whose feature maps a pyramid can stand on.
        PlanError: arguments that it does not take, or a function that fails.
    """
    body = build(backbone, kwargs) if is_reference(backbone) else _torchvision_body(backbone, kwargs)
    maps = list(_by_name(_probe(body, backbone)).values())
    wrong = [list(m.shape) for m in maps if m.ndim != 4]
    heights = [m.shape[2] for m in maps if m.ndim == 4]
    if wrong or len(maps) < 2 or sorted(set(heights), reverse=True) != heights:
        shapes = wrong or [list(m.shape) for m in maps]
        raise CheckpointError(
            f"backbone {backbone}: expected two or more feature maps [B, C, h, w], finest first, but got {shapes}"
        )
    return Pyramid(body, [m.shape[1] for m in maps], out_channels)


def _torchvision_body(name: str, kwargs: Mapping[str, Any]) -> nn.Module:
    """A torchvision network without its head, cut where it leaves each of the pyramid's strides."""
    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        raise CheckpointError(
            f"unknown backbone {name!r}; expected a torchvision classification network such as resnet50, "
            f"or package.module:function"
        )
    try:
        network = torchvision.models.get_model(name, weights=None, **kwargs)
    except (TypeError, ValueError) as error:
        raise PlanError(f"backbone {name}: expected backbone_kwargs that it takes, but got: {error}") from error
    trunk = getattr(network, "features", network)
    last: dict[int, str] = {}
    handles = [
        child.register_forward_hook(lambda _m, _i, out, path=path: last.update(_stride(out, path)))
        for path, child in trunk.named_children()
    ]
    _probe(network, name)
    for handle in handles:
        handle.remove()
    if not set(STRIDES) <= last.keys():
        raise CheckpointError(
            f"backbone {name}: expected feature maps [B, C, h, w] at strides {', '.join(map(str, STRIDES))}, "
            f"but it has strides {', '.join(map(str, sorted(last))) or 'none'}"
        )
    body: nn.Module = IntermediateLayerGetter(trunk, {last[stride]: str(i) for i, stride in enumerate(STRIDES)})
    return body


def _stride(output: object, path: str) -> dict[int, str]:
    """The stride of a feature map on the probe, where it is one."""
    if not isinstance(output, Tensor) or output.ndim != 4:
        return {}
    height, width = output.shape[2:]
    for stride in STRIDES:
        if (height, width) == (_PROBE[0] // stride, _PROBE[1] // stride):
            return {stride: path}
    return {}


@torch.no_grad()
def _probe(body: nn.Module, name: str) -> Any:
    """What the backbone gives for one empty frame; it is left in evaluation mode."""
    expected = f"backbone {name}: expected it to take frames [1, 3, {_PROBE[0]}, {_PROBE[1]}], but it raised"
    with foreign_code(expected, CheckpointError):
        return body.eval()(torch.zeros(1, 3, *_PROBE))


def _by_name(maps: Any) -> dict[str, Tensor]:
    """Feature maps under the names that torchvision's detectors expect."""
    if isinstance(maps, Tensor):
        maps = [maps]
    if isinstance(maps, Mapping):
        maps = list(maps.values())
    return {str(index): feature for index, feature in enumerate(maps)}
