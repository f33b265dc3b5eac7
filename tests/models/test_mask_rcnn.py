from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FrozenBatchNorm2d

from gearnn.errors import CheckpointError, PlanError
from gearnn.layers import layers_of, model_size
from gearnn.models import build_model, load_model, save_checkpoint, start_from
from gearnn.models.checkpoint import named_tensors
from gearnn.models.frozen import freeze_batchnorms, thaw_batchnorms
from gearnn.models.mask_rcnn import mask_rcnn
from tests.shared.nets import TINY_MASK_RCNN


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    return build_model("mask_rcnn", 2)


def test_two_classes_on_a_resnet_50_count_what_the_paper_adapts(resnet: nn.Module) -> None:
    assert model_size(resnet) == 44_028_635
    assert sum(layer.num_weights for layer in layers_of(resnet)) == 43_922_395
    assert int(0.004 * model_size(resnet)) == 176_114


def test_every_stage_is_learnable_and_no_batchnorm_is(resnet: nn.Module) -> None:
    assert all(parameter.requires_grad for parameter in resnet.parameters())
    kinds = {type(module) for module in resnet.modules()}
    assert FrozenBatchNorm2d in kinds
    assert nn.BatchNorm2d not in kinds
    assert "backbone.body.conv1" in [layer.name for layer in layers_of(resnet)]
    assert not any("bn" in layer.name for layer in layers_of(resnet))


def test_it_computes_what_torchvisions_own_computes(resnet: nn.Module) -> None:
    theirs = torchvision.models.detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2)
    theirs.load_state_dict(resnet.state_dict(), strict=False)
    frames = [torch.rand(3, 90, 120, generator=torch.Generator().manual_seed(1))]
    for model in (resnet, theirs):
        model.eval()
        model.transform.min_size, model.transform.max_size = (100,), 160
    with torch.inference_mode():
        ours, expected = resnet(frames)[0], theirs(frames)[0]
    assert len(ours["scores"]) > 0
    for name in ("boxes", "labels", "scores", "masks"):
        assert torch.allclose(ours[name].float(), expected[name].float(), atol=1e-4), name


def test_a_checkpoint_of_torchvision_loads_whole_or_with_new_heads(tmp_path: Path) -> None:
    torch.manual_seed(1)
    coco = torchvision.models.detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    path = tmp_path / "coco.pth"
    torch.save(coco.state_dict(), path)
    whole = load_model("mask_rcnn", 91, path)
    assert torch.equal(
        whole.state_dict()["backbone.body.conv1.weight"], coco.state_dict()["backbone.body.conv1.weight"]
    )
    with pytest.raises(
        CheckpointError, match=r"cls_score.weight should be \[2, 1024\] but is \[91, 1024\].*base.train"
    ):
        load_model("mask_rcnn", 2, path)
    model = build_model("mask_rcnn", 2)
    fresh = model.roi_heads.box_predictor.cls_score.weight.detach().clone()
    told = start_from(model, path)
    assert (
        "took 301 of 307 tensors; 6 replaced: roi_heads.box_predictor.cls_score.weight [91, 1024] for [2, 1024]" in told
    )
    assert torch.equal(model.roi_heads.box_predictor.cls_score.weight, fresh)
    assert torch.equal(model.roi_heads.box_head.fc6.weight, coco.roi_heads.box_head.fc6.weight)


def test_the_epsilon_of_cocos_checkpoint_can_be_set() -> None:
    fixed = [m.eps for m in mask_rcnn(batchnorm_eps=0.0).modules() if isinstance(m, FrozenBatchNorm2d)]
    assert len(fixed) == 53
    assert set(fixed) == {0.0}


def test_a_checkpoint_of_the_backbone_alone_is_a_start(tmp_path: Path) -> None:
    torch.manual_seed(2)
    imagenet = torchvision.models.resnet50(weights=None)
    torch.save(imagenet.state_dict(), tmp_path / "resnet50.pth")
    model = build_model("mask_rcnn", 2)
    told = start_from(model, tmp_path / "resnet50.pth", "backbone.body")
    assert "took 265 of 307 tensors; 42 new: backbone.fpn" in told
    assert told.endswith("2 not used: fc.weight, fc.bias")
    assert torch.equal(model.backbone.body.layer4[2].conv3.weight, imagenet.layer4[2].conv3.weight)
    with pytest.raises(CheckpointError, match=r"base\.submodule names the part that a file is of"):
        start_from(model, tmp_path / "resnet50.pth")


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v3_large", "efficientnet_b0", "convnext_tiny", "vgg11_bn"])
def test_any_torchvision_backbone_can_carry_the_pyramid(backbone: str) -> None:
    model = mask_rcnn(2, backbone=backbone, pyramid_channels=16, min_size=64, max_size=96).eval()
    assert list(model.backbone(torch.zeros(1, 3, 64, 96))) == ["0", "1", "2", "3", "pool"]
    assert [tuple(m.shape[2:]) for m in model.backbone(torch.zeros(1, 3, 64, 96)).values()] == [
        (16, 24), (8, 12), (4, 6), (2, 3), (1, 2),
    ]  # fmt: skip
    with torch.inference_mode():
        assert model([torch.rand(3, 50, 60)])[0]["masks"].shape[2:] == (50, 60)
    assert not any(isinstance(m, nn.BatchNorm2d) and m.weight.requires_grad for m in model.modules())


def test_a_backbone_of_timm_can_carry_the_pyramid() -> None:
    kwargs = {"model_name": "tf_efficientnet_lite0", "features_only": True, "out_indices": [1, 2, 3, 4]}
    model = mask_rcnn(2, backbone="timm:create_model", backbone_kwargs=kwargs, pyramid_channels=16).eval()
    assert [tuple(m.shape) for m in model.backbone(torch.zeros(1, 3, 64, 96)).values()][:2] == [
        (1, 16, 16, 24), (1, 16, 8, 12),
    ]  # fmt: skip
    assert not any("bn" in layer.name for layer in layers_of(model)), "timm's BatchNorms are fixed too"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_classes": 1}, PlanError, "expected num_classes of at least 2, background included, but got 1"),
        ({"backbone": "resnet5"}, CheckpointError, "unknown backbone 'resnet5'"),
        (
            {"backbone": "swin_t"},
            CheckpointError,
            r"feature maps \[B, C, h, w\] at strides 4, 8, 16, 32, but",
        ),
        ({"backbone": "resnet18", "backbone_kwargs": {"w": 3}}, PlanError, "expected backbone_kwargs that it takes"),
        ({"backbone": "vit_b_16"}, CheckpointError, "it raised AssertionError: Wrong image height"),
        (
            {"backbone": "tests.shared.nets:zoo", "backbone_kwargs": {"num_classes": 3}},
            CheckpointError,
            "two or more",
        ),
        ({"backbone": "tests.shared.nets:no_forward"}, CheckpointError, "it raised NotImplementedError"),
        ({"min_sizes": 3}, PlanError, "expected kwargs among .*min_size, .*, but got min_sizes"),
        ({"anchor_sizes": [8, 16]}, PlanError, "expected 5 anchor_sizes, one a map of the pyramid, but got 2"),
    ],
)
def test_what_cannot_be_built_is_told(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        mask_rcnn(**options)


def test_fixed_batchnorms_thaw_for_training_and_are_fixed_again_with_their_statistics() -> None:
    torch.manual_seed(3)
    model = mask_rcnn(2, **TINY_MASK_RCNN).eval()
    frames = torch.rand(2, 3, 64, 64)
    before = {name: m.clone() for name, m in model.backbone(frames).items()}
    thawed = thaw_batchnorms(model)
    assert thawed == ["backbone.body.stem.1", "backbone.body.stages.0.1", "backbone.body.stages.1.1"]
    assert all(torch.allclose(m, before[n], atol=1e-6) for n, m in model.eval().backbone(frames).items())
    assert "backbone.body.stem.1" in [layer.name for layer in layers_of(model)]
    model.train().backbone(frames)
    moved = {name: m.clone() for name, m in model.eval().backbone(frames).items()}
    assert freeze_batchnorms(model, thawed) == thawed
    assert all(torch.allclose(m, moved[n], atol=1e-6) for n, m in model.backbone(frames).items())
    assert not torch.allclose(moved["0"], before["0"])
    assert "backbone.body.stem.1" not in [layer.name for layer in layers_of(model)]


def test_anchors_are_exact_under_autocast() -> None:
    model = build_model("mask_rcnn", 2, TINY_MASK_RCNN)
    frames = ImageList(torch.zeros(1, 3, 800, 1216), [(800, 1216)])
    maps = [torch.zeros(1, 8, 800 // stride, 1216 // stride) for stride in (4, 8, 16, 32)]
    exact = model.rpn.anchor_generator(frames, maps)[0]
    assert torch.equal(model.rpn.anchor_generator(frames, [m.bfloat16() for m in maps])[0], exact)
    assert torch.equal(AnchorGenerator(((8,), (16,), (32,), (64,)), ((0.5, 1.0, 2.0),) * 4)(frames, maps)[0], exact)


def test_boxes_are_decoded_in_full_precision_under_autocast() -> None:
    model = build_model("mask_rcnn", 2, TINY_MASK_RCNN)
    codes, boxes = torch.zeros(1, 4, dtype=torch.bfloat16), [torch.tensor([[501.0, 303.0, 577.0, 635.0]])]
    assert model.roi_heads.box_coder.decode(codes, boxes).flatten().tolist() == [501.0, 303.0, 577.0, 635.0]


def test_weights_go_round(tmp_path: Path) -> None:
    torch.manual_seed(4)
    model = build_model("mask_rcnn", 3, TINY_MASK_RCNN)
    save_checkpoint(tmp_path / "model.safetensors", model)
    again = load_model("mask_rcnn", 3, tmp_path / "model.safetensors", TINY_MASK_RCNN)
    assert all(torch.equal(t, named_tensors(again)[n]) for n, t in named_tensors(model).items())
