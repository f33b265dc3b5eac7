from dataclasses import asdict, dataclass
from typing import Any

import pytest

from gearnn.errors import PlanError
from gearnn.problems import problem
from gearnn.problems.classification import Classification
from gearnn.problems.instances import InstanceSegmentation
from gearnn.problems.problem import Problem, make_problem, problem_class, problem_names, restore_problem
from gearnn.problems.segmentation import SemanticSegmentation

FACTS = {"num_classes": 3, "ignore_index": 255, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.2, 0.3)}


@dataclass(frozen=True, kw_only=True)
class HalfAProblem:
    num_classes: int
    truth = "classes"
    takes_mixed_sizes = False

    def describe(self) -> dict[str, Any]:
        return {"name": "tests.problems.test_problem:HalfAProblem", **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class CarefulSegmentation(SemanticSegmentation):
    """A user's own problem: one of ours, with a field more."""

    patience: int = 1

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"name": "tests.problems.test_problem:CarefulSegmentation"}


@pytest.mark.parametrize(
    "problem",
    [
        make_problem("semantic_segmentation", FACTS, {"stride": 32}),
        make_problem("instance_segmentation", FACTS, {"mask_threshold": 0.4}),
        make_problem("classification", FACTS, {"size": [32, 24]}),
        make_problem("tests.problems.test_problem:CarefulSegmentation", FACTS, {"patience": 3}),
    ],
)
def test_a_problem_comes_back_from_its_description(problem: Problem) -> None:
    import json

    restored = restore_problem(json.loads(json.dumps(problem.describe())), trust=["tests"])
    assert type(restored) is type(problem)
    assert restored == problem


def test_a_problem_takes_the_facts_that_it_has_fields_for() -> None:
    assert make_problem("instance_segmentation", FACTS, {}) == InstanceSegmentation(num_classes=3)
    assert make_problem("classification", FACTS, {}) == Classification(
        num_classes=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.3)
    )
    assert problem_names() == ("classification", "instance_segmentation", "semantic_segmentation")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("pose", {}, "unknown problem 'pose'; expected one of classification, instance_segmentation, semantic_seg"),
        ("nowhere.at.all:Pose", {}, "nowhere.at.all cannot be imported: ModuleNotFoundError: .* is its package inst"),
        (
            "tests.problems.test_problem:Pose",
            {},
            "expected a function or class Pose in tests.problems.test_problem, but there is none",
        ),
        (
            "tests.problems.test_problem:make_problem",
            {},
            "expected a dataclass with the methods of gearnn.problems.problem.Problem",
        ),
        (
            "tests.problems.test_problem:HalfAProblem",
            {},
            "but it lacks flip, collate, to, loss, predict, truths",
        ),
        ("semantic_segmentation", {"strid": 4}, "semantic_segmentation has no strid; expected stride"),
        ("semantic_segmentation", {"stride": 0}, "expected a stride of at least 1, but got 0"),
        ("instance_segmentation", {"stride": 4}, "instance_segmentation has no stride; expected mask_threshold"),
        ("classification", {"size": [4]}, r"expected a size \[width, height\], but got \[4\]"),
    ],
)
def test_what_is_wrong_with_a_problem_is_told(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        make_problem(name, FACTS, options)


@pytest.mark.parametrize("name", problem_names())
def test_our_problems_have_every_part_of_the_protocol(name: str) -> None:
    assert problem_class(name).truth in ("classes", "instances", "class")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": "9"}, "expected num_classes to be a number from 1, but got '9'"),
        ({"num_classes": 0}, "expected num_classes to be a number from 1, but got 0"),
        ({"ignore_index": 0.5}, "expected ignore_index to be a number or null, but got 0.5"),
        ({"mean": [0.5, 0.5]}, "expected mean to be three numbers"),
        ({"mean": [0.5, 0.5, float("nan")]}, "expected mean to be three numbers"),
        ({"mean": "rgb"}, "expected mean to be three numbers"),
        ({"mean": [True, 1, 1]}, "expected mean to be three numbers"),
        ({"std": [0.5, 0.5, 0.0]}, "expected std to be three numbers above 0"),
        ({"std": None}, "expected std to be three numbers above 0"),
        ({"name": ["x"]}, "unknown problem"),
        ({"name": None}, "unknown problem"),
        ({"size": 1}, "has no size"),
    ],
)
def test_a_description_with_impossible_facts_is_one_line(change: dict[str, object], message: str) -> None:
    described = SemanticSegmentation(num_classes=9, ignore_index=None, mean=(0.5,) * 3, std=(0.25,) * 3).describe()
    with pytest.raises(PlanError, match=message):
        restore_problem(described | change)


def test_our_own_classes_are_found_beside_the_protocol() -> None:
    assert problem.SemanticSegmentation is SemanticSegmentation
    with pytest.raises(AttributeError, match="has no attribute 'Segmentation'"):
        problem.Segmentation  # noqa: B018
