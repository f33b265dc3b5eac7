"""Boxes of torchvision's detectors in float32, whatever the precision of their networks.

torchvision makes anchors and decodes boxes in the type of the feature maps. Under autocast to bfloat16, with
its 8 bits, that moves corners at 500 pixels by up to one and anchors of large frames by up to seven.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator


def keep_boxes_in_float32(model: nn.Module) -> None:
    """Replace torchvision's own coders and anchors, in place; users' subclasses of them stay."""
    for module in list(model.modules()):
        coder: Any = getattr(module, "box_coder", None)
        anchors: Any = getattr(module, "anchor_generator", None)
        if type(coder) is BoxCoder:
            module.box_coder = _Float32BoxCoder(coder.weights, coder.bbox_xform_clip)
        if type(anchors) is AnchorGenerator:
            module.anchor_generator = _Float32Anchors(anchors.sizes, anchors.aspect_ratios)


class _Float32BoxCoder(BoxCoder):  # type: ignore[misc]
    def decode_single(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        decoded: Tensor = super().decode_single(rel_codes.float(), boxes.float())
        return decoded


class _Float32Anchors(AnchorGenerator):  # type: ignore[misc]
    def set_cell_anchors(self, dtype: torch.dtype, device: torch.device) -> None:
        super().set_cell_anchors(torch.float32, device)
