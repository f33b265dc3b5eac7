"""Mask R-CNN (He et al. 2017) with torchvision's operators, as the paper adapts it (section 4.1).

Departures from torchvision's defaults, which decide what Eq. 1 sees: every stage of the backbone is
learnable, and its BatchNorm layers are fixed (``FrozenBatchNorm2d``), whatever weights it starts from.
With two classes on a ResNet-50 the network counts 44,028,635 values, 43,922,395 of them learnable.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FrozenBatchNorm2d

from gearnn.errors import PlanError
from gearnn.models.frozen import freeze_batchnorms
from gearnn.models.pyramid import pyramid

_FINEST_ANCHOR = 32
_OPTIONS = {
    name
    for name in inspect.signature(MaskRCNN).parameters
    if name.partition("_")[0] in ("min", "max", "image", "rpn", "box")
    and not name.endswith(("generator", "head", "pool", "predictor"))  # modules, which a plan cannot write
}


def mask_rcnn(
    num_classes: int = 2,
    *,
    backbone: str = "resnet50",
    backbone_kwargs: Mapping[str, Any] | None = None,
    pyramid_channels: int = 256,
    anchor_sizes: Sequence[int] | None = None,
    batchnorm_eps: float | None = None,
    **options: Any,
) -> MaskRCNN:
    """Build a Mask R-CNN with random weights; names of its tensors are torchvision's.

    Args:
        num_classes: classes with the background, which is class 0.
        backbone: see :func:`gearnn.models.pyramid.pyramid`.
        backbone_kwargs: for the backbone.
        pyramid_channels: channels of the feature pyramid.
        anchor_sizes: side of the anchors on every map of the pyramid, finest first, in pixels of the
            resized frame; None takes 32, 64, 128, ...
        batchnorm_eps: of the ``FrozenBatchNorm2d`` layers. None keeps the backbone's; torchvision's
            ``COCO_V1`` checkpoint was made with 0.
        options: any of torchvision's ``MaskRCNN``: ``min_size``, ``max_size``, ``image_mean``,
            ``box_score_thresh``, ``box_detections_per_img``, ...

    Raises:
        CheckpointError: the backbone cannot carry a pyramid.
        PlanError: an option that torchvision's constructor does not have, or anchors for another number of maps.
    """
    if num_classes < 2:
        raise PlanError(f"mask_rcnn: expected num_classes of at least 2, background included, but got {num_classes}")
    unknown = sorted(options.keys() - _OPTIONS)
    if unknown:
        raise PlanError(f"mask_rcnn: expected kwargs among {', '.join(sorted(_OPTIONS))}, but got {', '.join(unknown)}")
    body = pyramid(backbone, pyramid_channels, backbone_kwargs or {})
    freeze_batchnorms(body)
    num_maps = len(body.fpn.inner_blocks) + 1
    sizes = tuple(anchor_sizes or (_FINEST_ANCHOR << level for level in range(num_maps)))
    if len(sizes) != num_maps:
        raise PlanError(f"mask_rcnn: expected {num_maps} anchor_sizes, one a map of the pyramid, but got {len(sizes)}")
    anchors = AnchorGenerator(tuple((size,) for size in sizes), ((0.5, 1.0, 2.0),) * num_maps)
    model = MaskRCNN(body, num_classes, rpn_anchor_generator=anchors, **options)
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d) and batchnorm_eps is not None:
            module.eps = batchnorm_eps
    return model
