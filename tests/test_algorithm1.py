from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from gearnn import algorithm1
from gearnn.adaptor import Adaptor
from gearnn.algorithm1 import Method, adapt_level
from gearnn.datasets import DistortedDataset
from gearnn.layers import charged_once, layers_of, model_size, named
from gearnn.machine.compute import Compute
from gearnn.models import load_model, save_checkpoint
from gearnn.plan import Plan
from gearnn.problems.segmentation import SemanticSegmentation
from gearnn.recipe import Recipe

RECIPE = Recipe(epochs=2, batch_size=4, lr=0.01)


@pytest.mark.parametrize("granularity", ["layer", "tensor"])
@pytest.mark.parametrize("policy", ["frozen", "selected", "all"])
def test_an_adaptor_holds_what_was_chosen_and_stays_within_its_bound(
    drn: nn.Module,
    samples: DistortedDataset,
    problem: SemanticSegmentation,
    fp32: Compute,
    policy: Any,
    granularity: Any,
) -> None:
    before = {name: value.clone() for name, value in drn.state_dict().items()}
    bound = model_size(drn) // 50
    adaptor = adapt_level(
        drn,
        samples,
        problem,
        "jpeg:quality=10",
        bound,
        Method(recipe=RECIPE, granularity=granularity, batchnorm_statistics=policy),
        compute=fp32,
    )
    chosen = named(layers_of(drn, granularity, policy), adaptor.layers)
    assert adaptor.num_values == sum(layer.num_values for layer in chosen) + charged_once(drn, policy) <= bound
    assert all(torch.equal(value, before[name]) for name, value in drn.state_dict().items())
    adapted = adaptor.apply(drn).state_dict()
    moved = {name for name, value in before.items() if not torch.equal(value, adapted[name])}
    assert moved <= set(adaptor.tensors)
    assert moved >= {name for layer in chosen for name in layer.weights}


def write_plan(folder: Path, **changes: Any) -> Path:
    save_checkpoint(folder / "base.safetensors", load_model("drn_d_22_quarter", 9))
    plan = {
        "base": {"name": "drn_d_22_quarter", "num_classes": 9, "checkpoint": str(folder / "base.safetensors")},
        "data": {"name": "streets", "frames": {"train": 4, "val": 1, "test": 1}, "camera": {"size": [48, 32]}},
        "levels": ["jpeg:quality=10"],
        "bound": {"fraction": 0.01},
        "finetune": {"epochs": 1, "batch_size": 4},
        "store": str(folder / "store"),
    }
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(plan | changes))
    return path


def test_the_command_runs_one_level_without_prefect_and_mlflow(tmp_path: Path, capsys: Any) -> None:
    target = tmp_path / "a.safetensors"
    assert algorithm1.main([str(write_plan(tmp_path)), "jpeg:quality=10", str(target)]) == 0  # and over its own
    assert algorithm1.main([str(write_plan(tmp_path)), "jpeg:quality=10", str(target)]) == 0
    adaptor = Adaptor.load(target)
    assert f"{adaptor.num_values} of {adaptor.bound} values" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "level", "target", "message"),
    [
        ({}, "jpeg:quality=100", "a", "at a pristine one the base itself runs"),
        ({}, "jpeg:quality=10", "none/a", "expected the folder"),
        ({"bound": {"values": 2}}, "jpeg:quality=10", "a", "the smallest layer"),
        ({}, "jpeg:quality=10", "plan.yaml", "plan.yaml: expected a place for a result, but it is the input"),
    ],
)
def test_the_command_refuses_before_training(
    tmp_path: Path, capsys: Any, monkeypatch: Any, changes: Any, level: str, target: str, message: str
) -> None:
    monkeypatch.setattr(algorithm1, "finetune", lambda *_, **__: pytest.fail("trained"))
    assert algorithm1.main([str(write_plan(tmp_path, **changes)), level, str(tmp_path / target)]) == 2
    assert message in capsys.readouterr().err


def test_an_adaptor_of_a_plan_carries_what_senses_its_level(tmp_path: Path) -> None:
    path = write_plan(tmp_path, levels=["brightness:factor=0.3", "jpeg:quality=10"], store=str(tmp_path / "store"))
    plan = Plan.load(path)
    dark, compressed = (algorithm1.adapt_from_plan(plan, level) for level in plan.distortion_levels)
    assert [(c.kind, str(c.level), c.num_frames) for c in dark.calibration] == [
        ("brightness", "pristine", 4),
        ("brightness", "brightness:factor=0.3", 4),
    ]
    assert dark.calibration[1].mean[2] < dark.calibration[0].mean[2] - 1.0  # the median, in stops
    assert compressed.calibration == ()


def test_an_adaptor_may_follow_the_full_fine_tune_of_its_level(
    drn: nn.Module, samples: DistortedDataset, problem: SemanticSegmentation, fp32: Compute
) -> None:
    bound = model_size(drn) // 50
    alone, taught = (
        adapt_level(drn, samples, problem, "jpeg:quality=10", bound, Method(recipe=RECIPE, distill=share), compute=fp32)
        for share in (0.0, 0.5)
    )
    assert alone.layers == taught.layers
    assert any(not torch.equal(alone.tensors[name], taught.tensors[name]) for name in alone.tensors)
