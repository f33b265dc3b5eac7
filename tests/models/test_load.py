import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

from gearnn.errors import CheckpointError, GearNNError, PlanError
from gearnn.layers import layers_of, model_size
from gearnn.models import build_model, load_model, model_names, problem_of_model, save_checkpoint, start_from

SEGMENTATION = torchvision.models.list_models(module=torchvision.models.segmentation)
CLASSIFICATION = torchvision.models.list_models(module=torchvision.models)


NO_META = [name for name in CLASSIFICATION if name.startswith("regnet")]  # they compute their widths with tensors


@pytest.mark.parametrize("name", [*SEGMENTATION, *sorted(set(CLASSIFICATION) - {*NO_META}), "regnet_y_400mf"])
def test_torchvisions_networks_can_be_built_and_their_layers_found(name: str) -> None:
    with torch.device("cpu" if name in NO_META else "meta"):  # the largest have 600 million values
        model = build_model(name, 7)
    layers = layers_of(model)
    weights = [weight for layer in layers for weight in layer.weights]
    assert sorted(weights) == sorted(name for name, _ in model.named_parameters())
    statistics = [s for layer in layers for s in layer.statistics]
    assert sum(layer.num_weights for layer in layers) == sum(p.numel() for p in model.parameters())
    assert model_size(model) == sum(t.numel() for t in model.state_dict().values() if t.is_floating_point())
    assert set(statistics) <= model.state_dict().keys()
    assert problem_of_model(name) == ("semantic_segmentation" if name in SEGMENTATION else "classification")


def test_names_of_all_families_are_known() -> None:
    names = model_names()
    assert {"drn_d_22", "mask_rcnn", "resnet50", "deeplabv3_resnet50", "maskrcnn_resnet50_fpn_v2"} <= set(names)
    assert problem_of_model("mask_rcnn") == problem_of_model("maskrcnn_resnet50_fpn") == "instance_segmentation"
    assert problem_of_model("drn_d_38") == "semantic_segmentation"
    assert problem_of_model("tests.shared.nets:zoo") is None


@pytest.mark.parametrize(
    ("name", "num_classes", "kwargs", "error", "message"),
    [
        (
            "resnet5",
            2,
            {},
            CheckpointError,
            "unknown network 'resnet5'; expected one of drn_d_22.*, mask_rcnn",
        ),
        ("resnet18", None, {}, PlanError, "resnet18: expected num_classes"),
        ("drn_d_22", 2, {"width": 3}, PlanError, "drn_d_22: expected no kwargs, but got width"),
        (
            "resnet18",
            2,
            {"weights": "DEFAULT"},
            PlanError,
            "expected weights from base.checkpoint, because nothing is",
        ),
        ("resnet18", 2, {"depth": 3}, PlanError, "resnet18: expected kwargs that it takes, but it raised .*depth"),
        ("resnet18", 2, {"num_classes": 3}, PlanError, r"expected the number of classes as base\.num_classes"),
        ("vit_b_16", 2, {"image_size": 100}, PlanError, "expected kwargs that it takes, but it raised AssertionError"),
        ("mask_rcnn", 2, {"anchor_sizes": 32}, PlanError, "mask_rcnn: expected kwargs that it takes, but it raised"),
        ("mask_rcnn", 2, {"backbone": 3}, PlanError, "mask_rcnn: expected kwargs that it takes, but it raised"),
        (
            "tests.shared.nets:raises",
            2,
            {},
            PlanError,
            r"tests.shared.nets:raises\(num_classes=2\): it raised ValueError: no",
        ),
        (
            "tests.shared.nets:zoo",
            2,
            {"wide": 3},
            PlanError,
            "it raised TypeError: .*unexpected keyword argument 'wide'",
        ),
        ("tests.shared.nets:no_module", 2, {}, PlanError, "expected it to return a torch.nn.Module, but got dict"),
        ("tests.shared.nets:lazy", 2, {}, PlanError, "expected parameters with shapes, but weight is lazy"),
        (
            "tests.shared.nets:nothing",
            2,
            {},
            PlanError,
            "expected a function or class nothing in tests.shared.nets",
        ),
        ("tests.nests:zoo", 2, {}, PlanError, "tests.nests cannot be imported: ModuleNotFoundError.*PYTHONPATH"),
        ("tests.shared.nets:", 2, {}, PlanError, "expected package.module:function"),
    ],
)
def test_what_cannot_be_built_is_told(
    name: str, num_classes: int | None, kwargs: dict[str, Any], error: type[GearNNError], message: str
) -> None:
    with pytest.raises(error, match=message):
        build_model(name, num_classes, kwargs)


def test_a_users_function_is_told_the_classes_where_it_takes_them() -> None:
    assert build_model("tests.shared.nets:zoo", 5, {"width": 4}).up.out_channels == 5
    assert build_model("tests.shared.nets:zoo", 5, {"num_classes": 3}).up.out_channels == 3
    assert build_model("tests.shared.nets:without_classes", 5).up.out_channels == 9


def test_tied_weights_are_written_and_read(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model("tests.shared.nets:zoo", 3)
    save_checkpoint(tmp_path / "zoo.safetensors", model)
    again = load_model("tests.shared.nets:zoo", 3, tmp_path / "zoo.safetensors")
    assert again.tied.weight is again.embedding.weight
    assert torch.equal(again.tied.weight, model.tied.weight)


def test_a_network_in_half_precision_becomes_float32(tmp_path: Path) -> None:
    torch.save(nn.Conv2d(3, 2, 1).half().state_dict(), tmp_path / "half.pt")
    assert load_model("torch.nn:Conv2d", None, tmp_path / "half.pt", {
        "in_channels": 3, "out_channels": 2, "kernel_size": 1,
    }).weight.dtype == torch.float32  # fmt: skip


@pytest.mark.parametrize(
    ("value", "dtype", "what"),
    [
        (float("nan"), torch.float16, "NaN"),
        (float("inf"), torch.float32, "infinity"),
        (1e39, torch.float64, "a value beyond float32's range"),
    ],
)
def test_values_that_do_not_fit_float32_are_refused(
    tmp_path: Path, value: float, dtype: torch.dtype, what: str
) -> None:
    kwargs = {"in_channels": 3, "out_channels": 2, "kernel_size": 1}
    state = nn.Conv2d(3, 2, 1).to(dtype).state_dict()
    state["bias"][1] = value
    torch.save(state, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match=f"expected finite values that fit float32, but bias has {what}"):
        load_model("torch.nn:Conv2d", None, tmp_path / "bad.pt", kwargs)
    with pytest.raises(CheckpointError, match=f"expected finite values that fit float32, but bias has {what}"):
        start_from(build_model("torch.nn:Conv2d", None, kwargs), tmp_path / "bad.pt")


def broken() -> nn.Module:
    """A network whose builder gives it a weight beyond float32."""
    model = nn.Linear(2, 2).double()
    with torch.no_grad():
        model.weight[0, 0] = 1e39
    return model


def test_a_builder_whose_weights_do_not_fit_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"tests.models.test_load:broken: .* but weight has infinity"):
        load_model("tests.models.test_load:broken")


def test_a_network_that_is_not_finite_is_never_saved(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="but weight has a value beyond float32's range"):
        save_checkpoint(tmp_path / "bad.safetensors", broken())
    assert not list(tmp_path.glob("*.safetensors"))


def old_names(name: str) -> str:
    """As torchvision named its tensors in 2019, when the weights on its site were made."""
    for new, old in (
        (r"(fpn\.(?:inner|layer)_blocks\.\d)\.0\.", r"\1."),
        (r"rpn\.head\.conv\.0\.0\.", "rpn.head.conv."),
    ):
        name = re.sub(new, old, name)
    return re.sub(r"mask_head\.(\d)\.0\.", lambda found: f"mask_head.mask_fcn{int(found[1]) + 1}.", name)


def test_checkpoints_with_torchvisions_old_names_load(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model("mask_rcnn", 2, {"backbone": "resnet18"})
    old = {old_names(name): tensor for name, tensor in model.state_dict().items()}
    assert len(old.keys() - model.state_dict().keys()) == 26
    torch.save(old, tmp_path / "old.pth")
    again = load_model("mask_rcnn", 2, tmp_path / "old.pth", {"backbone": "resnet18"})
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    three = build_model("mask_rcnn", 3, {"backbone": "resnet18"})
    told = start_from(three, tmp_path / "old.pth")
    assert "6 replaced" in told
    assert "new" not in told
    assert torch.equal(three.roi_heads.mask_head[0][0].weight, model.roi_heads.mask_head[0][0].weight)


def test_densenets_with_torchvisions_old_names_load(tmp_path: Path) -> None:
    model = build_model("densenet121", 2)
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name): tensor
        for name, tensor in model.state_dict().items()
    }
    assert old.keys() != model.state_dict().keys()
    torch.save(old, tmp_path / "old.pth")
    load_model("densenet121", 2, tmp_path / "old.pth")


def test_one_name_of_tied_weights_is_enough(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model("tests.shared.nets:zoo", 3)
    safetensors.torch.save_model(model, str(tmp_path / "zoo.safetensors"))
    again = load_model("tests.shared.nets:zoo", 3, tmp_path / "zoo.safetensors")
    assert torch.equal(again.embedding.weight, model.embedding.weight)
    assert again.tied.weight is again.embedding.weight
