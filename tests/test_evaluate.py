import copy

import torch
from torch import nn

from gearnn.adaptor import Adaptor
from gearnn.compute import Compute
from gearnn.datasets import DistortedDataset
from gearnn.evaluate import evaluate
from gearnn.gearbox import GearBox
from gearnn.layers import layers_of
from gearnn.problem import SemanticSegmentation


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
