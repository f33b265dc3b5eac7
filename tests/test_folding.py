"""Folded statistics against the network whose statistics moved, which is run as it is."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gearnn.adaptor import Adaptor
from gearnn.datasets import DistortedDataset
from gearnn.errors import AdaptorError
from gearnn.finetune import finetune
from gearnn.folding import effective, foldable
from gearnn.gearbox import GearBox
from gearnn.gears.holding import Hold
from gearnn.layers import Layer, layers_of, named
from gearnn.machine.compute import Compute
from gearnn.models import build_model
from gearnn.problems.segmentation import SemanticSegmentation
from gearnn.recipe import Recipe
from gearnn.sensitivity import weight_change
from tests.shared.adaptors import HOLDS

LEVELS = "jpeg:quality=10", "brightness:factor=0.3"


class Shouting(nn.BatchNorm2d):
    """A class of a user's own with an activation behind it, as timm's have."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class Odd(nn.BatchNorm2d):
    """Its scale acts twice, so that no folding gives the same."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.weight[:, None, None]


def stack(norm: nn.Module, dims: int = 2) -> nn.Module:
    """A small network around a layer of 4 channels."""
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
    return nn.Sequential(conv(3, 4, 3, padding=1), norm, nn.ReLU(), conv(4, 5, 1)).eval()


def shared() -> nn.Module:
    """One BatchNorm that is used twice, under two names."""
    norm = nn.BatchNorm2d(4)
    return nn.Sequential(nn.Conv2d(3, 4, 1), norm, nn.Conv2d(4, 4, 1), norm, nn.Conv2d(4, 5, 1)).eval()


def tied(name: str) -> nn.Module:
    """Two BatchNorms of which one tensor is the same."""
    first, second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    setattr(second, name, getattr(first, name))
    return nn.Sequential(nn.Conv2d(3, 4, 1), first, nn.Conv2d(4, 4, 1), second, nn.Conv2d(4, 5, 1)).eval()


def tiny_variances() -> nn.Module:
    """Dead channels in the base, eps left in place."""
    network = stack(nn.BatchNorm2d(4))
    network[1].running_var[:2] = torch.tensor([0.0, 1e-38])  # type: ignore[index, operator, union-attr]
    return network


def moved(base: nn.Module, layers: list[Layer], seed: int = 1) -> nn.Module:
    """A copy of which the weights and statistics of some layers are others, as after a fine-tune."""
    network, generator = copy.deepcopy(base), torch.Generator().manual_seed(seed)
    state = network.state_dict()
    for name in (name for layer in layers for name in (*layer.weights, *layer.statistics)):
        noise = torch.rand(state[name].shape, generator=generator, dtype=torch.float64).to(state[name].dtype)
        state[name].copy_(state[name] * (0.5 + noise) + (0.1 + noise) * name.endswith(("mean", "bias", "var")))
    return network


def write_folded(network: nn.Module, base: nn.Module, tuned: nn.Module, layers: list[Layer]) -> None:
    """Write the effective scale and shift of layers into a network, in its own precision."""
    for layer in layers:
        path = layer.weights[0].rpartition(".")[0]
        scale, shift = effective(base.get_submodule(path), tuned.get_submodule(path))
        network.get_parameter(f"{path}.weight").copy_(scale)
        network.get_parameter(f"{path}.bias").copy_(shift)


def settled(network: nn.Module, dims: int = 2) -> nn.Module:
    """The network with statistics of some frames."""
    with torch.no_grad():
        network.train()(torch.randn(8, 3, *[12] * dims, generator=torch.Generator().manual_seed(7)))
    return network.eval()


CASES: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "BatchNorm1d": (lambda: stack(nn.BatchNorm1d(4), 1), 1),
    "BatchNorm2d": (lambda: stack(nn.BatchNorm2d(4)), 2),
    "BatchNorm3d": (lambda: stack(nn.BatchNorm3d(4), 3), 3),
    "SyncBatchNorm": (lambda: stack(nn.SyncBatchNorm(4)), 2),
    "InstanceNorm1d": (lambda: stack(nn.InstanceNorm1d(4, affine=True, track_running_stats=True), 1), 1),
    "InstanceNorm2d": (lambda: stack(nn.InstanceNorm2d(4, affine=True, track_running_stats=True)), 2),
    "InstanceNorm3d": (lambda: stack(nn.InstanceNorm3d(4, affine=True, track_running_stats=True), 3), 3),
    "averaged over all batches": (lambda: stack(nn.BatchNorm2d(4, momentum=None)), 2),
    "with an activation": (lambda: stack(Shouting(4)), 2),
    "used twice": (shared, 2),
    "dead channels": (tiny_variances, 2),
}
"""Networks of which every BatchNorm folds, and the dimensions of their frames."""

CARRIED: dict[str, Callable[[], nn.Module]] = {
    "without scale and shift": lambda: stack(nn.BatchNorm2d(4, affine=False)),
    "of another function": lambda: stack(Odd(4)),
    "the same scale": lambda: tied("weight"),
    "the same shift": lambda: tied("bias"),
    "the same mean": lambda: tied("running_mean"),
    "the same variance": lambda: tied("running_var"),
    "nothing to divide by": lambda: _without_eps(1e-38),
}
"""Networks of which some statistics cannot be folded, so that adaptors hold them."""


def _without_eps(variance: float) -> nn.Module:
    network = stack(nn.BatchNorm2d(4, eps=0.0))
    network[1].running_var.fill_(variance)  # type: ignore[operator, union-attr]
    return network


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", CASES)
def test_folded_statistics_give_what_moved_ones_do(name: str, dtype: torch.dtype, close: float) -> None:
    make, dims = CASES[name]
    torch.manual_seed(0)
    base = make() if name == "dead channels" else settled(make(), dims)
    base = base.to(dtype)
    layers = [layer for layer in layers_of(base) if layer.statistics]
    assert layers
    assert all(layer.folds for layer in layers)
    tuned = moved(base, layers)
    folding = copy.deepcopy(base)
    with torch.no_grad():
        write_folded(folding, base, tuned, layers)
        x = torch.randn(3, 3, *[9] * dims, dtype=dtype, generator=torch.Generator().manual_seed(3))
        wanted, found = tuned(x), folding(x)
    assert (wanted - base(x)).abs().max() > 0.01  # the statistics matter
    assert (wanted - found).abs().max() <= close * wanted.abs().max().clamp(min=1)


@pytest.mark.parametrize("name", CASES)
def test_an_adaptor_holds_two_values_a_channel(name: str) -> None:
    make, dims = CASES[name]
    torch.manual_seed(0)
    base = make() if name == "dead channels" else settled(make(), dims)
    layers = [layer for layer in layers_of(base) if layer.statistics]
    tuned = moved(base, layers)
    adaptor = Adaptor.extract(base, tuned, layers, LEVELS[0])
    assert adaptor.num_values == sum(layer.num_values for layer in layers) == 8 * len(layers)
    x = torch.randn(3, 3, *[9] * dims, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        wanted, found = tuned(x), adaptor.apply(base).eval()(x)
    assert (wanted - found).abs().max() <= 1e-5 * wanted.abs().max().clamp(min=1)


@pytest.mark.parametrize("name", CARRIED)
def test_statistics_that_cannot_be_folded_are_held_and_charged(name: str) -> None:
    torch.manual_seed(0)
    base = CARRIED[name]() if "divide" in name else settled(CARRIED[name]())
    layers = [layer for layer in layers_of(base) if layer.statistics and not layer.folds]
    assert layers
    tuned = moved(base, layers)
    adaptor = Adaptor.extract(base, tuned, layers, LEVELS[0])
    held = [name for layer in layers for name in layer.statistics]
    assert set(held) <= adaptor.tensors.keys()
    assert adaptor.num_values == sum(layer.num_values for layer in layers)
    x = torch.randn(3, 3, 9, 9, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        assert torch.equal(tuned(x), adaptor.apply(base).eval()(x))


def test_layers_in_float64_fold_to_rounding_in_a_deep_network() -> None:
    torch.manual_seed(0)
    base = build_model("drn_d_22_quarter", 9).double().eval()
    layers = [layer for layer in layers_of(base) if layer.statistics]
    assert len(layers) > 20
    tuned = moved(base, layers)
    folding = copy.deepcopy(base)
    x = torch.randn(2, 3, 40, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        write_folded(folding, base, tuned, layers)
        wanted, found = tuned(x), folding(x)
    assert (wanted - found).abs().max() <= 1e-12 * wanted.abs().max()


@pytest.mark.parametrize("hold", HOLDS)
def test_gears_of_folded_adaptors_answer_as_the_networks_that_were_trained(
    tiny: nn.Module,
    samples: DistortedDataset,
    problem: SemanticSegmentation,
    fp32: Compute,
    tmp_path: Path,
    hold: Hold,
) -> None:
    layers, networks, adaptors = named(layers_of(tiny), ["bn", "head"]), [], []
    for seed, level in enumerate(LEVELS):
        recipe = Recipe(epochs=2, batch_size=4, optimizer="adam", lr=0.05, seed=seed)
        network = finetune(tiny, samples, problem, recipe, layers=layers, compute=fp32).model
        assert not torch.equal(network.get_buffer("bn.running_mean"), tiny.get_buffer("bn.running_mean"))
        Adaptor.extract(tiny, network, layers, level).save(tmp_path / "a.safetensors")
        adaptors.append(Adaptor.load(tmp_path / "a.safetensors"))
        networks.append(network)
    gearbox = GearBox(tiny, adaptors, hold=hold)
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        wanted = [network(x) for network in (*networks, copy.deepcopy(tiny))]
        close = 1e-5 * float(wanted[0].abs().max())
        for level, own in zip(LEVELS, wanted, strict=False):
            assert (gearbox(x, level) - own).abs().max() <= close
        mixed = gearbox.mixed([LEVELS[0], LEVELS[1], LEVELS[0], "pristine"])(x)
        for frame, own in enumerate((wanted[0], wanted[1], wanted[0], wanted[2])):
            assert (mixed[frame] - own[frame]).abs().max() <= close


def test_equation_1_is_computed_on_effective_scale_and_shift() -> None:
    torch.manual_seed(0)
    base = settled(stack(nn.BatchNorm2d(4)))
    tuned = copy.deepcopy(base)
    norm, before = tuned[1], base[1]  # type: ignore[index]
    with torch.no_grad():
        norm.running_mean += 0.5
        norm.running_var *= 4.0
    row = weight_change(base, tuned).set_index("layer").loc["1"]
    total = 0.0
    for c in range(4):  # the formula, channel by channel
        w = before.weight[c].item()
        old = (float(before.running_var[c]) + before.eps) ** 0.5
        new = (float(norm.running_var[c]) + norm.eps) ** 0.5
        total += abs(w * old / new - w)
        total += abs(w / new * (float(before.running_mean[c]) - float(norm.running_mean[c])))
    assert row["sensitivity"] == pytest.approx(total / 8, rel=1e-12)
    assert row["sensitivity_weights"] == 0.0
    assert weight_change(base, tuned, batchnorm_statistics="frozen").set_index("layer").loc["1", "sensitivity"] == 0.0


def test_scale_and_shift_that_float32_cannot_hold_are_refused() -> None:
    base = settled(stack(nn.BatchNorm2d(4, eps=1e-20)))
    layers = [layer for layer in layers_of(base) if layer.statistics]
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        tuned[1].weight.fill_(1e30)  # type: ignore[index, operator, union-attr]
        tuned[1].running_var.zero_()  # type: ignore[index, operator, union-attr]
    with pytest.raises(AdaptorError, match=r"layer 1: .*beyond float32's range.*selected stores them"):
        Adaptor.extract(base, tuned, layers, LEVELS[0])


def test_a_layer_that_changes_its_function_while_it_is_tuned_is_refused() -> None:
    base = settled(stack(nn.BatchNorm2d(4)))
    layers = [layer for layer in layers_of(base) if layer.statistics]
    tuned = moved(base, layers)
    tuned[1].__class__ = Odd  # type: ignore[index]
    with pytest.raises(AdaptorError, match=r"layer 1: expected its running statistics to fold .* but Odd differs"):
        Adaptor.extract(base, tuned, layers, LEVELS[0])


def test_layers_without_statistics_of_their_own_are_no_candidates() -> None:
    fixed = stack(nn.BatchNorm2d(4))
    fixed[1].requires_grad_(False)  # type: ignore[index]
    assert foldable(fixed) == foldable(stack(nn.BatchNorm2d(4, track_running_stats=False))) == set()
    assert [layer.name for layer in layers_of(fixed)] == ["0", "3"]


def test_a_layer_with_a_hook_is_not_folded() -> None:
    network = stack(nn.BatchNorm2d(4))
    network[1].register_forward_hook(lambda module, args, output: output / module.running_var.mean())  # type: ignore[index]
    assert foldable(network) == set()


def test_equation_1_counts_a_shared_scale_in_its_own_layer_only() -> None:
    torch.manual_seed(0)
    base = settled(tied("weight"))
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        tuned[1].weight += 0.5  # type: ignore[index, operator]
    table = weight_change(base, tuned).set_index("layer")
    assert table.loc["1", "sensitivity"] > 0.1
    assert table.loc["3", "sensitivity"] == 0.0
