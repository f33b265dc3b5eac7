import copy
from threading import Lock
from typing import Any

import pytest
import torch
from torch import nn

from gearnn.adaptor import Adaptor
from gearnn.datasets import DistortedDataset
from gearnn.errors import PlanError
from gearnn.evaluate import evaluate
from gearnn.gearbox import GearBox
from gearnn.layers import layers_of
from gearnn.machine.compute import Compute
from gearnn.problems.segmentation import SemanticSegmentation


def test_the_score_is_that_of_every_frame(
    tiny: nn.Module, samples: DistortedDataset, problem: SemanticSegmentation, fp32: Compute
) -> None:
    expected = problem.new_score()
    with torch.inference_mode():
        for index in range(len(samples)):
            batch = problem.collate([samples[index]])
            expected.update(problem.predict(tiny, batch)[0], problem.truths(batch)[0])
    found = evaluate(tiny, samples, problem, batch_size=3, compute=fp32)
    assert abs(found.primary - expected.primary) < 0.1  # another memory order may tip a pixel


def test_a_network_that_is_scored_stays_as_and_where_it_is(
    tiny: nn.Module, samples: DistortedDataset, problem: SemanticSegmentation, fp32: Compute
) -> None:
    tiny.train()
    tiny.bn.eval()  # type: ignore[union-attr]
    modes = [module.training for module in tiny.modules()]
    before = {name: (id(t), t.data_ptr(), t.stride()) for name, t in tiny.state_dict(keep_vars=True).items()}
    evaluate(tiny, samples, problem, compute=fp32)
    assert [module.training for module in tiny.modules()] == modes
    after = {name: (id(t), t.data_ptr(), t.stride()) for name, t in tiny.state_dict(keep_vars=True).items()}
    assert after == before
    assert not any(tensor.is_inference() for tensor in tiny.state_dict(keep_vars=True).values())


def test_scoring_one_level_of_a_gearbox_in_place_leaves_the_others_as_they_were(
    tiny: nn.Module, samples: DistortedDataset, problem: SemanticSegmentation, fp32: Compute
) -> None:
    adaptors = []
    for number, level in enumerate(("jpeg:quality=10", "jpeg:quality=50"), start=1):
        tuned, layers = copy.deepcopy(tiny), layers_of(tiny)
        with torch.no_grad():
            tuned.conv.weight.mul_(1.0 + number)  # type: ignore[union-attr, operator]
        adaptors.append(Adaptor.extract(tiny, tuned, layers, level))
    box = GearBox(tiny, adaptors, hold="in_place")
    x = torch.randn(1, 3, 8, 8)
    with torch.inference_mode():
        before = box(x, "jpeg:quality=50").clone()
    with box.at("jpeg:quality=10") as network:
        evaluate(network, samples, problem, compute=fp32)
    with torch.inference_mode():
        assert torch.equal(box(x, "jpeg:quality=50"), before)


class Hooked(nn.Module):
    """A network whose hook keeps it in its closure, so that a copy's features would go to the original."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.feats: dict[str, Any] = {}
        self.register_buffer("calls", torch.zeros(()))
        net.register_forward_hook(lambda m, i, o: self.feats.__setitem__("x", o))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls = self.calls + 1
        self.net(x)
        return self.feats["x"]


@pytest.mark.parametrize("kept", ["nothing", "features of another frame", "a lock"])
def test_a_network_that_cannot_be_copied_is_scored_itself_and_comes_back_as_it_was(
    tiny: nn.Module, samples: DistortedDataset, problem: SemanticSegmentation, fp32: Compute, kept: str
) -> None:
    expected = evaluate(tiny, samples, problem, compute=fp32).figures
    network = Hooked(copy.deepcopy(tiny)).train()
    network.net.bn.eval()  # type: ignore[union-attr]
    if kept == "features of another frame":
        network.feats["x"] = torch.zeros(1, 9, 32, 48)
    if kept == "a lock":
        network.lock = Lock()
    modes = [module.training for module in network.modules()]
    before = {name: (id(t), t.clone(), t.requires_grad) for name, t in network.state_dict(keep_vars=True).items()}
    assert evaluate(network, samples, problem, compute=fp32).figures == pytest.approx(expected, abs=0.1)
    assert [module.training for module in network.modules()] == modes
    for name, tensor in network.state_dict(keep_vars=True).items():
        assert (id(tensor), tensor.requires_grad) == (before[name][0], before[name][2]), name
        assert torch.equal(tensor, before[name][1]), name
    assert not network.feats["x"].is_inference()  # it can still be trained with


def test_a_network_that_can_neither_be_copied_nor_run_where_it_lies_is_refused(
    tiny: nn.Module, samples: DistortedDataset, problem: SemanticSegmentation
) -> None:
    elsewhere = Compute(device=torch.device("meta"), bf16=False)
    with pytest.raises(PlanError, match="a forward hook of net keeps a part of it"):
        evaluate(Hooked(tiny), samples, problem, compute=elsewhere)
