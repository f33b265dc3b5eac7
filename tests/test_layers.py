import copy

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from gearnn.errors import CheckpointError
from gearnn.layers import (
    aliases,
    charged_once,
    check_finite,
    fingerprint,
    layers_of,
    model_size,
    named,
    overlapping,
    statistics_of,
)
from gearnn.models import build_model, load_model


def test_a_layer_is_a_module_that_owns_tensors(tiny: nn.Module) -> None:
    assert [(x.name, x.kind, x.num_weights, x.num_values) for x in layers_of(tiny)] == [
        ("conv", "Conv2d", 3 * 4 * 9 + 4, 112),
        ("bn", "BatchNorm2d", 8, 8),
        ("head", "Conv2d", 4 * 9 + 9, 45),
    ]


def test_fixed_tensors_are_no_candidates_but_count_into_the_model(tiny: nn.Module) -> None:
    assert "fixed" not in [layer.name for layer in layers_of(tiny)]
    assert model_size(tiny) == 112 + 8 + 45 + 4 + 8


@pytest.mark.parametrize(("policy", "size", "once"), [("frozen", 8, 0), ("selected", 16, 0), ("all", 8, 8)])
def test_running_statistics_are_charged_as_the_policy_says(tiny: nn.Module, policy: str, size: int, once: int) -> None:
    layer = named(layers_of(tiny, "layer", policy), ["bn"])[0]  # type: ignore[arg-type]
    assert layer.num_values == size
    assert sum(tiny.state_dict()[name].numel() for name in layer.stored(policy)) == size  # type: ignore[arg-type]
    assert charged_once(tiny, policy) == once  # type: ignore[arg-type]


def test_with_granularity_tensor_every_parameter_is_an_item(tiny: nn.Module) -> None:
    layers = layers_of(tiny, "tensor", "selected")
    assert [layer.name for layer in layers] == [
        "conv.weight",
        "conv.bias",
        "bn.weight",
        "bn.bias",
        "head.weight",
        "head.bias",
    ]
    assert sum(layer.num_values for layer in layers) == sum(
        layer.num_values for layer in layers_of(tiny, "layer", "selected")
    )


def test_every_batchnorm_of_drn_d_22_fits_into_its_nominal_adaptor() -> None:
    model = load_model("drn_d_22", 19)
    batchnorms = [layer for layer in layers_of(model, "layer", "selected") if layer.kind == "BatchNorm2d"]
    assert sum(layer.num_values for layer in batchnorms) == 23_552
    assert sum(t.numel() for t in statistics_of(model).values()) == 11_776


def test_tied_weights_are_one_layer() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(3, 3, bias=False)
            self.second = nn.Linear(3, 3, bias=False)
            self.second.weight = self.first.weight

    model = Tied()
    assert [layer.name for layer in layers_of(model)] == ["first"]
    assert model_size(model) == 9


def test_a_fingerprint_depends_on_every_value_and_on_nothing_else(tiny: nn.Module) -> None:
    print_ = fingerprint(tiny)
    other = copy.deepcopy(tiny).to(memory_format=torch.channels_last)
    other.bn.num_batches_tracked += 7
    other.conv.weight.requires_grad_(False)
    assert fingerprint(other) == print_
    for name in ("conv.weight", "bn.running_var", "fixed.weight"):
        changed = copy.deepcopy(tiny)
        flat = changed.state_dict()[name].view(-1)
        flat[-1] = torch.nextafter(flat[-1], torch.tensor(9.0))
        assert fingerprint(changed) != print_, name


def test_a_half_precision_file_has_the_fingerprint_of_its_values(tiny: nn.Module) -> None:
    half = copy.deepcopy(tiny).half()
    assert fingerprint(half) == fingerprint(copy.deepcopy(half).float())


def test_layers_of_every_kind_are_candidates() -> None:
    model = build_model("tests.shared.nets:zoo", 5)
    layers = {layer.name: layer for layer in layers_of(model, batchnorm_statistics="selected")}
    kinds = {name: layer.kind for name, layer in layers.items()}
    assert kinds == {
        "(root)": "Zoo",
        "shifts": "ParameterList",
        "gains": "ParameterDict",
        "stem": "Conv2d",
        "grouped": "Conv2d",
        "dilated": "Conv2d",
        "depthwise": "Conv2d",
        "batchnorm": "BatchNorm2d",
        "instancenorm": "InstanceNorm2d",
        "groupnorm": "GroupNorm",
        "layernorm": "LayerNorm",
        "embedding": "Embedding",
        "tied": "Linear",
        "attention": "MultiheadAttention",
        "attention.out_proj": "NonDynamicallyQuantizableLinear",
        "recurrent": "GRU",
        "up": "ConvTranspose2d",
    }
    assert layers["(root)"].weights == ("scale",)
    assert layers["shifts"].weights == ("shifts.0", "shifts.1")
    assert layers["embedding"].num_weights == 64
    assert layers["tied"].weights == ("tied.bias",), "its weight belongs to the embedding"
    assert layers["instancenorm"].statistics == ("instancenorm.running_mean", "instancenorm.running_var")
    assert sum(layer.num_weights for layer in layers.values()) == sum(
        p.numel() for p in model.parameters() if p.requires_grad
    )
    assert aliases(model) == {name: ["embedding.weight", "tied.weight"] for name in ("embedding.weight", "tied.weight")}


def test_statistics_of_a_batchnorm_with_fixed_weights_are_fixed_too() -> None:
    model = build_model("tests.shared.nets:zoo", 5)
    model.batchnorm.requires_grad_(False)
    assert "batchnorm" not in [layer.name for layer in layers_of(model)]
    assert set(statistics_of(model)) == {"instancenorm.running_mean", "instancenorm.running_var"}


def test_a_layer_of_no_values_is_listed_with_size_nothing() -> None:
    model = nn.ModuleDict({"probe": nn.Module(), "head": nn.Linear(3, 3)})
    model["probe"].dummy = nn.Parameter(torch.empty(0))
    assert [(layer.name, layer.num_values) for layer in layers_of(model)] == [("probe", 0), ("head", 12)]
    assert len(fingerprint(model)) == 64


def test_statistics_that_layers_share_count_once() -> None:
    first, second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    second.running_mean, second.running_var = first.running_mean, first.running_var
    model = nn.ModuleDict({"first": first, "same": first, "second": second})
    assert set(statistics_of(model)) == {"first.running_mean", "first.running_var"}
    assert charged_once(model, "all") == 8
    assert [layer.num_values for layer in layers_of(model, batchnorm_statistics="selected")] == [16, 8]


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (float("nan"), torch.float32, r"weight has NaN"),
        (float("inf"), torch.bfloat16, r"weight has infinity"),
        (float("-inf"), torch.float32, r"weight has infinity"),
        (1e39, torch.float64, r"weight has a value beyond float32's range"),
    ],
)
def test_a_network_whose_values_cannot_be_kept_has_no_fingerprint(
    value: float, dtype: torch.dtype, message: str
) -> None:
    model = nn.Linear(3, 3).to(dtype)
    with torch.no_grad():
        model.weight[0, 0] = value
    with pytest.raises(CheckpointError, match=f"expected finite values that fit float32, but {message}"):
        fingerprint(model)


def test_masks_of_negative_infinity_are_no_fault_but_fixed_weights_of_it_are() -> None:
    model = nn.Linear(3, 3)
    model.register_buffer("mask", torch.full((2, 2), float("-inf")).triu(1))
    assert len(fingerprint(model)) == 64
    fixed = FrozenBatchNorm2d(2)
    fixed.weight[0] = float("-inf")
    with pytest.raises(CheckpointError, match="weight has infinity"):
        check_finite(fixed, "base")


def test_parameters_that_share_memory_are_named_and_mere_neighbours_and_tied_ones_are_not() -> None:
    memory = torch.randn(12)
    model = nn.Module()
    model.one, model.two = nn.Parameter(memory[:4]), nn.Parameter(memory[4:8])
    model.tied, model.empty = model.one, nn.Parameter(memory[:0])
    assert overlapping(model) == []
    model.across, model.wide = nn.Parameter(memory[7:10]), nn.Parameter(memory[10:11].expand(3))
    assert overlapping(model) == ["two", "across", "wide"]


def test_columns_that_only_interleave_share_nothing_and_views_kept_as_buffers_do() -> None:
    memory = torch.randn(4, 6)
    model = nn.Module()
    model.q, model.k = nn.Parameter(memory[:, :3]), nn.Parameter(memory[:, 3:])
    assert overlapping(model) == []
    model.column = nn.Parameter(torch.randn(4, 6)[:, :1].expand(4, 3))
    model.diagonals = nn.Parameter(torch.randn(9).as_strided((3, 3), (1, 1)))
    model.register_buffer("view", model.k.data[1:2, :1])
    model.register_buffer("same", memory.new_zeros(3))
    model.register_buffer("again", model.same[1:])
    assert sorted(overlapping(model)) == ["column", "diagonals", "k", "view"]
