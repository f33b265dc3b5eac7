"""Any module tree goes through Algorithm 1: one that has a layer of every kind, tied weights among them."""

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gearnn.adaptor import Adaptor
from gearnn.algorithm1 import Method, adapt_level
from gearnn.datasets import DistortedDataset
from gearnn.errors import AdaptorError
from gearnn.finetune import finetune
from gearnn.gearbox import GearBox
from gearnn.layers import fingerprint, layers_of, model_size, named
from gearnn.machine.compute import Compute
from gearnn.models import build_model
from gearnn.problems.segmentation import SemanticSegmentation
from gearnn.recipe import Recipe
from gearnn.sensitivity import weight_change
from tests.shared.nets import Zoo

RECIPE = Recipe(epochs=1, batch_size=5, lr=0.05, clip=1.0)
LAYERS = [layer.name for layer in layers_of(Zoo(9))]


@pytest.fixture
def zoo() -> nn.Module:
    torch.manual_seed(0)
    return build_model("tests.shared.nets:zoo", 9)


def outputs(model: nn.Module) -> Tensor:
    frames = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return model.eval()(frames)  # type: ignore[no-any-return]


def test_every_layer_that_learns_has_a_sensitivity(
    zoo: nn.Module, samples: DistortedDataset, problem: SemanticSegmentation, fp32: Compute
) -> None:
    tuned = finetune(zoo, samples, problem, RECIPE, compute=fp32).model
    table = weight_change(zoo, tuned)
    assert table["layer"].tolist() == LAYERS
    assert (table["sensitivity"] > 0).all()
    embedding = table.set_index("layer").loc["embedding"]
    expected = (tuned.tied.weight - zoo.tied.weight).abs().double().mean().item()
    assert embedding["sensitivity"] == pytest.approx(expected)


@pytest.mark.parametrize("name", LAYERS)
def test_each_layer_can_be_the_adaptor(
    name: str, zoo: nn.Module, samples: DistortedDataset, problem: SemanticSegmentation, fp32: Compute, tmp_path: Path
) -> None:
    layers = named(layers_of(zoo), [name])
    before = {key: tensor.clone() for key, tensor in zoo.state_dict().items()}
    tuned = finetune(zoo, samples, problem, RECIPE, layers=layers, compute=fp32).model
    Adaptor.extract(zoo, tuned, layers, "jpeg:quality=10").save(tmp_path / "a.safetensors")
    adaptor = Adaptor.load(tmp_path / "a.safetensors")
    assert adaptor.num_values == layers[0].num_values
    gear = adaptor.apply(zoo)
    wanted = outputs(tuned)
    assert torch.equal(outputs(gear), wanted) or (layers[0].folds and torch.allclose(outputs(gear), wanted, atol=1e-6))
    assert not torch.equal(outputs(gear), outputs(zoo))
    assert all(torch.equal(tensor, before[key]) for key, tensor in zoo.state_dict().items())
    assert (gear.tied.weight is zoo.tied.weight) == (name != "embedding")
    assert gear.tied.weight is gear.embedding.weight, "weights that are tied stay tied"


def test_algorithm_1_and_the_gearbox_take_it_whole(
    zoo: nn.Module, samples: DistortedDataset, problem: SemanticSegmentation, fp32: Compute
) -> None:
    bound = model_size(zoo) // 3
    adaptor = adapt_level(zoo, samples, problem, "jpeg:quality=10", bound, Method(recipe=RECIPE), compute=fp32)
    assert 0 < adaptor.num_values <= bound
    gearbox = GearBox(zoo, [adaptor], problem)
    answer = gearbox.infer([samples.encoded(0)])[0]
    assert str(answer.used) == "jpeg:quality=10"
    assert torch.equal(outputs(gearbox.model("pristine")), outputs(zoo))


def test_only_statistics_and_weights_move_whatever_else_a_network_keeps(
    zoo: nn.Module, samples: DistortedDataset, problem: SemanticSegmentation, fp32: Compute
) -> None:
    tuned = finetune(zoo, samples, problem, RECIPE, batchnorm_statistics="frozen", compute=fp32).model
    after = tuned.state_dict()
    same = {name for name, tensor in zoo.state_dict().items() if torch.equal(tensor, after[name])}
    assert {"calls", "ramp", "fixed.weight", "batchnorm.running_mean", "instancenorm.running_var"} <= same
    moved = finetune(zoo, samples, problem, RECIPE, batchnorm_statistics="all", compute=fp32).model.state_dict()
    assert not torch.equal(moved["instancenorm.running_var"], zoo.state_dict()["instancenorm.running_var"])
    assert torch.equal(moved["calls"], zoo.state_dict()["calls"])


def test_an_adaptor_of_one_network_never_loads_on_another(
    zoo: nn.Module, samples: DistortedDataset, problem: SemanticSegmentation, fp32: Compute
) -> None:
    adaptor = adapt_level(zoo, samples, problem, "jpeg:quality=10", 300, Method(recipe=RECIPE), compute=fp32)
    other = copy.deepcopy(zoo)
    with torch.no_grad():
        other.scale += 1e-6
    with pytest.raises(AdaptorError) as refused:
        adaptor.apply(other)
    assert fingerprint(zoo)[:16] in str(refused.value)
    assert fingerprint(other)[:16] in str(refused.value)
    renamed = dataclasses.replace(
        adaptor, base_fingerprint=fingerprint(build_model("tests.shared.nets:zoo", 9, {"width": 4}))
    )
    with pytest.raises(AdaptorError, match=r"expected .* of shape .*, but got"):
        renamed.apply(build_model("tests.shared.nets:zoo", 9, {"width": 4}), renamed.base_fingerprint)
