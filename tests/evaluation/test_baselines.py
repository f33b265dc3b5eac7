import pytest
import torch
from torch import nn

from gearnn.datasets import DistortedDataset
from gearnn.errors import BoundError, PlanError
from gearnn.evaluation.baselines import batchnorm_layers, last_layers, reestimated
from gearnn.layers import layers_of
from gearnn.machine.compute import Compute
from gearnn.problems.segmentation import SemanticSegmentation


def names(layers: list) -> list[str]:  # type: ignore[type-arg]
    return [layer.name for layer in layers]


def test_every_batchnorm_of_drn_d_22_is_found_with_its_known_size() -> None:
    from gearnn.models import load_model

    layers = layers_of(load_model("drn_d_22", 19))
    chosen = batchnorm_layers(layers)
    assert sum(layer.num_values for layer in chosen) == 11_776
    assert {layer.kind for layer in chosen} == {"BatchNorm2d"}
    with pytest.raises(BoundError, match="BatchNorm layers: expected at least one"):
        batchnorm_layers([layer for layer in layers if not layer.statistics])


def test_the_last_layers_are_taken_from_the_output_backwards_as_far_as_they_fit(tiny: nn.Module) -> None:
    layers = layers_of(tiny)  # conv 112, bn 8, head 45
    assert names(last_layers(layers, 1000)) == ["conv", "bn", "head"]
    assert names(last_layers(layers, 60)) == ["bn", "head"]
    assert names(last_layers(layers, 45)) == ["head"]
    assert names(last_layers(layers, 44)) == ["bn"]  # the head is passed over
    with pytest.raises(BoundError, match="got 7 values; one needs 8"):
        last_layers(layers, 7)


def test_reestimated_statistics_are_those_of_the_frames(
    tiny: nn.Module, samples: DistortedDataset, problem: SemanticSegmentation, fp32: Compute
) -> None:
    before = {name: value.clone() for name, value in tiny.state_dict().items()}
    found = reestimated(tiny, samples, problem, batch_size=5, compute=fp32)
    with torch.no_grad():
        features = [tiny.conv(problem.collate([samples[i] for i in part]).images) for part in (range(5), range(5, 10))]  # type: ignore[operator]
    for wanted, name in ((0, "running_mean"), (1, "running_var")):
        each = [(f.mean((0, 2, 3)), f.transpose(0, 1).flatten(1).var(1))[wanted] for f in features]
        torch.testing.assert_close(getattr(found.bn, name), torch.stack(each).mean(0), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in tiny.state_dict().items())
    moved = {name for name, value in found.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"bn.running_mean", "bn.running_var"}
    assert not any(module.training for module in found.modules())


def test_a_network_without_statistics_has_none_to_estimate(
    samples: DistortedDataset, problem: SemanticSegmentation
) -> None:
    with pytest.raises(PlanError, match="expected a network with some that can move"):
        reestimated(nn.Conv2d(3, 9, 1), samples, problem)
