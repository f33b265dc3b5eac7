"""What can be known before anything is trained."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from gearnn.errors import PlanError
from gearnn.plan import Plan
from gearnn.plan.opened import Opened
from gearnn.plan.preflight import check_network, check_sizes
from gearnn.problems.segmentation import SemanticSegmentation
from tests.shared.nets import TINY_MASK_RCNN

STREETS = {"name": "streets", "frames": {"train": 3, "val": 2, "test": 2}, "camera": {"size": [48, 32]}}
DRN = {"name": "drn_d_22_quarter", "train": {}}
ZOO = {"module": "tests.shared.nets:zoo", "train": {"epochs": 1, "batch_size": 2}}


def plan(base: dict[str, Any], data: dict[str, Any] = STREETS, **more: Any) -> Plan:
    levels = {"levels": ["jpeg:quality=5"], "problem": {"name": "semantic_segmentation"}}
    return Plan.read({"base": base, "data": data} | levels | more, source="test")


@dataclass(frozen=True, kw_only=True)
class Forgetful(SemanticSegmentation):
    """A problem whose description lacks a field."""

    patience: int = 0

    def describe(self) -> dict[str, Any]:
        kept = {k: v for k, v in dataclasses.asdict(self).items() if k != "patience"}
        return {"name": "tests.plan.test_preflight:Forgetful", **kept}


@dataclass(frozen=True, kw_only=True)
class Unwritable(SemanticSegmentation):
    """A problem whose description is no JSON."""

    def describe(self) -> dict[str, Any]:
        return {"name": "tests.plan.test_preflight:Unwritable", "device": torch.device("cpu")}


class HalfAScore:
    primary_name = "depth"
    figures: dict[str, float] = {"error": 1.0}  # noqa: RUF012
    primary = 1.0
    per_class: list[float] = []  # noqa: RUF012

    def update(self, prediction: Any, truth: Any) -> None: ...


@dataclass(frozen=True, kw_only=True)
class HalfScored(SemanticSegmentation):
    """A problem whose score does not name its figure."""

    def describe(self) -> dict[str, Any]:
        return {"name": "tests.plan.test_preflight:HalfScored", **dataclasses.asdict(self)}

    def new_score(self) -> Any:
        return HalfAScore()


@dataclass(frozen=True, kw_only=True)
class Detached(SemanticSegmentation):
    """A problem whose loss has no gradients."""

    def describe(self) -> dict[str, Any]:
        return {"name": "tests.plan.test_preflight:Detached", **dataclasses.asdict(self)}

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return super().loss(model, batch).detach()


@pytest.mark.parametrize(
    ("base", "more", "message"),
    [
        (
            {"module": "tests.shared.nets:raises"},
            {},
            "tests.shared.nets:raises.* it raised ValueError: no weights for 9 classes",
        ),
        (
            {"module": "tests.shared.nets:no_forward"},
            {},
            "to run on frame train-00000, but it raised NotImplementedError",
        ),
        (
            {"module": "tests.shared.nets:coarse"},
            {},
            r"expected the network to give logits \[1, 9, 32, 48\] .* \[1, 9, 16",
        ),
        ({"module": "tests.shared.nets:zoo"}, {"problem": {}}, r"problem\.name: expected one of classification"),
        ({"name": "resnet18"}, {"problem": {}}, "expected frames with one class a frame as truth"),
        (
            {"module": "tests.shared.nets:zoo"},
            {"problem": {"name": "instance_segmentation"}},
            "but it raised TypeError",
        ),
        (
            {"name": "mask_rcnn", "kwargs": TINY_MASK_RCNN, "mean": [0, 0, 0], "std": [1, 1, 1]},
            {"problem": {}},
            r"base\.mean: instance_segmentation leaves the normalisation to the network; base\.kwargs",
        ),
        (ZOO, {"problem": {"name": "semantic_segmentation", "size": [3, 4]}}, "has no size"),
        (ZOO, {"problem": {"name": "semantic_segmentation", "num_classes": 4}}, "has no num_classes; expected stride"),
        (
            ZOO,
            {"problem": {"name": "tests.plan.test_preflight:Forgetful", "patience": 2}},
            r"describe\(\) to say all",
        ),
        (
            ZOO,
            {"problem": {"name": "tests.plan.test_preflight:Unwritable"}},
            "TypeError: Object of type device is not JSON",
        ),
        (
            ZOO,
            {"problem": {"name": "tests.plan.test_preflight:HalfScored"}},
            "figures to hold depth, but got {'error'",
        ),
        (ZOO, {"problem": {"name": "tests.plan.test_preflight:Detached"}}, "a loss with gradients, but it is detached"),
    ],
)
def test_a_network_that_does_not_fit_is_told_before_training(
    base: dict[str, Any], more: dict[str, Any], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        check_network(Opened(plan({"train": {"epochs": 1}} | base, **more)))


@pytest.mark.parametrize("base", [ZOO, DRN, {"name": "lraspp_mobilenet_v3_large", "train": {}}])
def test_networks_that_fit_pass(base: dict[str, Any]) -> None:
    check_network(Opened(plan(base, levels=["jpeg:quality=5", "resolution:scale=0.5"])))


def test_every_size_that_levels_deliver_is_tried(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(np.zeros((224, 224, 3), np.uint8)).save(tmp_path / split / name / "0.png")
    data = {"name": "class_folders", "root": str(tmp_path), "classes": ["cat", "dog"]}
    base = {"name": "vit_b_32", "train": {}}
    check_network(Opened(plan(base, data, problem={})))
    with pytest.raises(PlanError, match="it raised AssertionError: Wrong image height! Expected 224 but got 112"):
        check_network(Opened(plan(base, data, problem={}, levels=["resolution:scale=0.5"])))
    check_network(Opened(plan(base, data, problem={"size": [224, 224]}, levels=["resolution:scale=0.5"])))


def test_a_last_batch_of_one_frame_that_batchnorm_refuses_is_found() -> None:
    base = {"name": "deeplabv3_mobilenet_v3_large", "train": {"batch_size": 2}}  # 3 frames: the last stands alone
    with pytest.raises(PlanError, match="ValueError: Expected more than 1 value per channel when training"):
        check_network(Opened(plan(base)))
    check_network(Opened(plan({"name": "deeplabv3_mobilenet_v3_large", "train": {"batch_size": 3}})))


def test_frames_of_several_sizes_are_found_in_every_split(tmp_path: Path) -> None:
    for split, sizes in (("train", (40, 40)), ("val", (40, 44))):
        (tmp_path / split / "cat").mkdir(parents=True)
        for index, size in enumerate(sizes):
            Image.fromarray(np.zeros((size, 40, 3), np.uint8)).save(tmp_path / split / "cat" / f"{index}.png")
    data = {"name": "class_folders", "root": str(tmp_path), "classes": ["cat"]}
    base = {"name": "resnet18", "train": {}}
    with pytest.raises(PlanError, match="but the split val of class_folders has 2 sizes from 40x40 to 40x44"):
        check_sizes(Opened(plan(base, data, problem={})))
    check_sizes(Opened(plan(base, data, problem={"size": [32, 32]})))


def test_distillation_is_refused_where_predictions_cannot_be_compared() -> None:
    base = {"name": "mask_rcnn", "kwargs": TINY_MASK_RCNN, "train": {"epochs": 1}}
    ours = plan(base, STREETS | {"camera": {"size": [88, 60]}}, problem={}, partial={"distill": 0.5})
    with pytest.raises(PlanError, match=r"partial.distill: expected a problem that classifies .* got instance_segment"):
        check_network(Opened(ours))
