import platform
from pathlib import Path
from typing import Any

import pytest
import yaml

from gearnn.errors import PlanError
from gearnn.plan import Plan
from gearnn.plan.sections import BoundSpec
from tests.conftest import REPOSITORY


def content(**changes: Any) -> dict[str, Any]:
    plan: dict[str, Any] = {
        "base": {"name": "drn_d_22", "num_classes": 11, "checkpoint": "base.safetensors"},
        "data": {"name": "camvid", "root": "camvid"},
        "levels": ["jpeg:quality=10", "jpeg:quality=30"],
    }
    return plan | changes


def test_a_plan_that_names_base_data_and_levels_gets_what_was_measured_best() -> None:
    plan = Plan.read(content(), source="here")
    whole, partial = plan.full_recipe, plan.partial_recipe
    assert (whole.epochs, whole.batch_size, whole.optimizer, whole.lr, whole.schedule) == (4, 8, "adam", 1e-4, "cosine")
    assert (partial.epochs, partial.optimizer, partial.lr, partial.relative) == (4, "adam", 0.05, True)
    assert (partial.clip, partial.schedule, partial.warmup, partial.flip) == (1.0, "cosine", 0.1, 0.5)
    assert plan.bound.in_values(15_907_139) == 31_814
    assert (plan.bound.batchnorm_statistics, plan.bound.select) == ("folded", "portfolio")
    assert plan.data.splits.model_dump() == {"train": "train", "promote": "val", "test": "test", "overlap": "refused"}
    assert plan.registered_base == "drn_d_22-camvid"


def test_adaptors_are_fine_tuned_as_long_as_whole_networks_unless_the_plan_says_more() -> None:
    plan = Plan.read(content(finetune={"epochs": 2, "batch_size": 3}), source="here")
    assert (plan.partial_recipe.epochs, plan.partial_recipe.batch_size, plan.partial_recipe.lr) == (2, 3, 0.05)
    plan = Plan.read(content(finetune={"epochs": 2}, partial={"batch_size": 5}), source="here")
    assert (plan.partial_recipe.epochs, plan.partial_recipe.batch_size, plan.partial_recipe.lr) == (4, 5, 0.05)


def test_the_papers_way_is_sgd_with_eq_2_and_statistics_that_stay() -> None:
    plan = Plan.read(content(finetune={"epochs": 2}), source="here").as_in_paper
    for recipe in (plan.full_recipe, plan.partial_recipe):
        assert (recipe.epochs, recipe.optimizer, recipe.lr, recipe.momentum) == (2, "sgd", 1e-3, 0.9)
        assert (recipe.weight_decay, recipe.schedule, recipe.warmup, recipe.clip) == (0.0, "constant", 0.0, None)
        assert not recipe.relative
    assert (plan.bound.batchnorm_statistics, plan.bound.select) == ("frozen", "eq2")


@pytest.mark.parametrize("path", sorted((REPOSITORY / "flows" / "plans").rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_plan_of_the_repository_is_valid(path: Path) -> None:
    assert Plan.load(path).distortion_levels


@pytest.mark.parametrize(
    ("bound", "size", "values"),
    [
        ({"fraction": 0.002}, 26_022_723, 52_045),
        ({"fraction": 0.29}, 100, 29),  # 0.29 * 100 is 28.999... in binary
        ({"values": 7}, 100, 7),
    ],
)
def test_a_bound_is_rounded_down_in_exact_arithmetic(bound: dict[str, Any], size: int, values: int) -> None:
    assert BoundSpec(**bound).in_values(size) == values


def test_levels_are_canonical_and_pristine_ones_need_no_adaptor() -> None:
    plan = Plan.read(content(levels=["jpeg:quality=100", "brightness:factor=0.30"]), source="here")
    assert plan.levels == ("jpeg:quality=100", "brightness:factor=0.3")
    assert [str(level) for level in plan.distortion_levels] == ["brightness:factor=0.3"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bond": {}}, "unknown key bond, did you mean bound"),
        (
            {"finetune": {"optimizer": {"learning_rate": 1}}},
            "unknown key finetune.optimizer.learning_rate, expected one of name, lr",
        ),
        (
            {"finetune": {"epochs": "four"}},
            "finetune.epochs: expected a valid integer, but got 'four'",
        ),
        ({"finetune": {"epochs": 0}}, "finetune.epochs: expected greater than or equal to 1"),
        ({"levels": []}, "levels: "),
        ({"levels": ["jpeg:quality=100"]}, "levels: expected at least one distorted level"),
        ({"seed": True}, "seed: expected a valid integer, but got True"),
        ({"finetune": {"optimizer": {"lr": float("inf")}}}, "finetune.optimizer.lr: expected a finite number"),
        ({"levels": ["jpeg:quality=10,quality=90"]}, "quality is given twice"),
        ({"levels": ["jpeg:quality=400"]}, "expected quality to be an integer from 1 to 100, but got 400"),
        ({"levels": ["jpeg:quality=10", "jpeg:quality=10"]}, "levels: jpeg:quality=10 is listed twice"),
        ({"bound": {"fraction": 0.1, "values": 4}}, "bound: expected either `fraction` or `values`, but got both"),
        ({"bound": {"fraction": 1.5}}, "bound.fraction: expected less than or equal to 1"),
        (
            {"data": {"name": "kitti"}},
            "data.name: expected 'camvid', 'cityscapes', 'class_folders', 'folder', 'pennfudan' or 'streets', but got",
        ),
        ({"data": {"name": "camvid"}}, "data: expected `root`, the folder of camvid"),
        ({"data": {"name": "folder", "root": "x"}}, "data: expected `classes`, the names of the classes"),
        ({"data": {"name": "camvid", "root": "x", "ignore": 3}}, "data: `ignore` is for name: folder only"),
        ({"data": {"name": "camvid", "root": "x", "clip": 20}}, "data: `clip` is for cityscapes only"),
        ({"levels": ["resolution:100x100/640x360"]}, "levels: level 'resolution:100x100/640x360': expected the shape"),
        (
            {"levels": ["resolution:120x90"]},
            "levels: expected data.camera.size, or resolution:WIDTHxHEIGHT/WIDTHxHEIGHT",
        ),
        ({"levels": ["resolution:{240x180/480x360,120x90}"]}, "levels: expected data.camera.size"),
        ({"levels": [10]}, "levels.0: expected text, but got 10"),
        ({"levels": "paper/fog"}, "levels: unknown level set 'paper/fog'"),
        ({"data": {"name": "streets"}}, "data: expected `frames` to give the number of scenes of test, train, val"),
        (
            {"data": {"name": "camvid", "root": "x", "splits": {"test": "val"}}},
            "data.splits: expected promote and test to be different frames, because what is chosen on frames looks "
            "better on them than it is, but both are val; set promote: 'val[:50%]' and test: 'val[50%:]', or overlap: "
            "reported",
        ),
        (
            {"data": {"name": "camvid", "root": "x", "splits": {"train": "train[:half]"}}},
            "data.splits.train: expected a split, or a slice such as val[:50%]",
        ),
        ({"base": {"name": "drn_d_22", "num_classes": 11}}, "base: expected `checkpoint` (a file), or `train`"),
        (
            {"base": {"num_classes": 11, "checkpoint": "x"}},
            "base: expected one of `name` and `module`, but got nei",
        ),
        (
            {"base": {"name": "drn_d_22", "module": "a:b", "checkpoint": "x"}},
            "base: expected one of `name` and `module`, but got both",
        ),
        (
            {"base": {"module": "nets", "checkpoint": "x"}},
            "base: expected `module` as package.module:function",
        ),
        (
            {"base": {"name": "mask_rcnn", "checkpoint": "x", "submodule": "backbone.body"}},
            "base: `submodule` is for a `checkpoint` that `train` starts from",
        ),
        (
            {"base": {"name": "drn_d_22", "train": {"batchnorm": "no"}}},
            "base.train.batchnorm: expected 'moving' or",
        ),
        ({"problem": {"name": 3}}, "problem.name: expected text, but got 3"),
        (
            {"data": {"name": "class_folders", "root": "x", "classes": ["cat", "cat"]}},
            "data: expected `classes` of different names, but got ['cat', 'cat']",
        ),
        (
            {"runner": "slurm"},
            "runner: expected threads, processes, dask, dask://host:port, ray or ray://host:port, but got 'slurm'",
        ),
    ],
)
def test_what_is_wrong_is_told_in_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(content(**changes)))
    with pytest.raises(PlanError) as caught:
        Plan.load(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_wrong_entry_is_told_at_once() -> None:
    with pytest.raises(PlanError) as caught:
        Plan.read(content(runner="x", seed="y", color=1), source="here")
    assert all(part in str(caught.value) for part in ("runner", "seed", "unknown key color"))


@pytest.mark.parametrize(
    ("text", "message"),
    [("[1, 2", "expected YAML, but got"), ("- 1", "expected keys and values, but got list"), ("", "but got NoneType")],
)
def test_a_file_that_is_no_plan_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(PlanError, match=message):
        Plan.load(path)
    with pytest.raises(PlanError, match="no such file"):
        Plan.load(tmp_path / "none.yaml")


def test_levels_may_be_products_sets_and_sizes_of_the_camera() -> None:
    data = {"name": "camvid", "root": "camvid", "camera": {"size": [240, 180]}}
    plan = Plan.read(content(data=data, levels=["resolution:{120x90,60x46}+jpeg:quality={10,20}"]), source="here")
    assert plan.levels[:2] == ("resolution:scale=0.5+jpeg:quality=10", "resolution:scale=0.5+jpeg:quality=20")
    assert plan.levels[2] == "resolution:scale=0.25+jpeg:quality=10"
    assert len(Plan.read(content(levels="paper/brightness"), source="here").distortion_levels) == 19
    assert Plan.model_validate(plan.model_dump(mode="json")) == plan  # as Prefect hands it on


def test_a_base_has_a_short_name_for_the_registry() -> None:
    base = {"module": "mypackage.nets:build", "kwargs": {"width": 8}, "checkpoint": "x"}
    plan = Plan.read(content(base=base, problem={"name": "semantic_segmentation", "stride": 32}), source="here")
    assert plan.registered_base == "mypackage-nets-build-camvid"
    assert plan.base.network == "mypackage.nets:build"
    assert plan.problem.options == {"stride": 32}
    assert Plan.model_validate(plan.model_dump(mode="json")) == plan


NEWER = content(format=2, sharpness={"of": "the future"})
TOLD = f"format: expected at most 1, which GearNN 0.1.0 knows, but got 2; update gearnn here ({platform.node()})"


def test_a_newer_plan_is_told_as_such_and_not_by_the_keys_that_are_new() -> None:
    with pytest.raises(PlanError) as failure:
        Plan.read(NEWER, source="of tomorrow")
    assert str(failure.value) == f"plan of tomorrow: {TOLD}"


@pytest.mark.filterwarnings("ignore")  # Prefect's own
def test_a_worker_tells_what_is_wrong_with_a_plan_as_a_file_would_be_told() -> None:
    from prefect.exceptions import ParameterTypeError

    from flows.adapt import adapt_flow

    wrong = content(bond=1, seed="z")
    for given, told in (
        (NEWER, TOLD),
        (wrong, "seed: expected a valid integer, but got 'z'; unknown key bond, did you mean bound"),
    ):
        with pytest.raises(ParameterTypeError) as failure:
            adapt_flow.validate_parameters({"plan": given})
        assert str(failure.value) == f"Flow run received invalid parameters:\n - plan: {told}"


def test_the_format_is_a_whole_number_from_1_on() -> None:
    for value, told in ((0, "format: expected greater than or equal to 1, but got 0"), ("2", "but got '2'")):
        with pytest.raises(PlanError, match=told):
            Plan.read(content(format=value), source="here")


def test_a_key_that_stands_twice_is_refused_and_merged_keys_are_not(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    text = yaml.safe_dump(content())
    path.write_text(f"{text}seed: 1\nfinetune: &how {{epochs: 2}}\npartial: {{<<: *how, epochs: 3}}\n")
    plan = Plan.load(path)
    assert (plan.finetune.epochs, plan.partial and plan.partial.epochs) == (2, 3)
    path.write_text(f"{text}seed: 1\nfinetune:\n  epochs: 4\n  batch_size: 2\n  epochs: 40\n")
    line = text.count("\n") + 3
    with pytest.raises(
        PlanError, match=rf"plan .*plan.yaml: .* finetune.epochs stands in line {line} and again in line {line + 2}"
    ):
        Plan.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": [{"jpeg": "quality=5"}]}, r"got {'jpeg': 'quality=5'}; without the space .* it is jpeg:quality=5"),
        ({"data": {"name": "class_folders", "root": "x", "classes": [False]}}, r'got False, .*; quote it, as in "no"'),
        ({"data": {"name": "class_folders", "root": "x", "classes": [0]}}, r'got 0, which YAML reads so; .* "0"'),
    ],
)
def test_what_yaml_reads_otherwise_than_people_mean_is_explained(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Plan.read(content(**changes), source="a")
