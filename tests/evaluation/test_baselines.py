import pytest
import torch
from torch import nn

from gearnn.datasets import DistortedDataset
from gearnn.errors import PlanError
from gearnn.evaluation.baselines import reestimated
from gearnn.machine.compute import Compute
from gearnn.problems.segmentation import SemanticSegmentation


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
