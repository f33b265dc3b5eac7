"""What decides a step's result is in its key, and what does not is not."""

from pathlib import Path
from typing import Any

import pytest

from gearnn.plan import Plan
from gearnn.plan.opened import Opened
from gearnn.store.storage import Ref
from tasks.adapting import base, evaluate, finetune
from tasks.benchmarking.benchmark import benchmark_digest
from tasks.records import Base, Data, Network, Selection
from tasks.registering.register import plan_digest

DATA = Data(digests={"train": "a", "promote": "b", "test": "b"}, num_frames={"train": 1, "promote": 1, "test": 1})
BASE = Base(weights=Ref(uri="objects/x", sha256="x", size=1), fingerprint="f", num_values=3)
DRN = {"name": "drn_d_22_quarter", "num_classes": 9, "train": {"epochs": 1}}
ZOO = {"module": "tests.shared.nets:zoo", "num_classes": 9, "train": {"epochs": 1}}
SEGMENTATION = {"name": "semantic_segmentation"}


def plan(of: dict[str, Any], **more: Any) -> Plan:
    content = {
        "base": of,
        "data": {"name": "streets", "frames": {"train": 2, "val": 1, "test": 1}},
        "levels": ["jpeg:quality=5"],
    }
    return Plan.read(content | more, source="test")


def reads(ours: Plan) -> list[dict[str, Any]]:
    """What the steps that compute with a base read: making it, tuning it, scoring it."""
    opened = Opened(ours)
    return [
        base._reads(opened, DATA),
        finetune._reads_full(opened, BASE, DATA, "jpeg:quality=5"),
        evaluate._reads(opened, BASE, DATA, "jpeg:quality=5", "base", None),
    ]


def test_arguments_of_a_network_are_in_every_key() -> None:
    small, large = (plan({"name": "mask_rcnn", "kwargs": {"min_size": s}, "train": {}}) for s in (320, 800))
    for one, other in zip(reads(small), reads(large), strict=True):
        assert one != other


def test_options_of_the_problem_are_in_every_key() -> None:
    for one, other in zip(reads(plan(DRN)), reads(plan(DRN, problem={"stride": 32})), strict=True):
        assert one != other


def test_the_code_of_a_users_network_is_in_every_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = reads(plan(ZOO, problem=SEGMENTATION))
    other = tmp_path / "nets.py"
    other.write_text("# another version")
    monkeypatch.setattr("tests.shared.nets.__file__", str(other))
    for one, changed in zip(before, reads(plan(ZOO, problem=SEGMENTATION)), strict=True):
        assert one != changed


def test_plans_of_before_have_the_keys_that_they_had() -> None:
    made, tuned, scored = reads(plan(DRN))
    assert set(made) == {"name", "num_classes", "train", "normalisation", "frames", "seed", "numerics"}
    assert set(made["train"]) == {"epochs", "batch_size", "optimizer", "schedule", "warmup", "augment"}
    assert set(tuned) == {
        "base", "frames", "level", "problem", "finetune", "batchnorm_statistics", "seed", "numerics",
    }  # fmt: skip
    assert set(scored) == {"base", "network", "adaptor", "frames", "problem", "level", "solution", "numerics"}


def test_a_plan_of_before_has_the_digest_that_it_had() -> None:
    data = {"name": "streets", "frames": {"train": 2, "val": 1}, "splits": {"test": "val", "overlap": "reported"}}
    bound = {"batchnorm_statistics": "frozen", "select": "eq2"}
    papers: dict[str, Any] = {"optimizer": {"name": "sgd"}, "schedule": "constant", "warmup": 0.0}
    of_before = plan(DRN, data=data, bound=bound, finetune=papers, partial=papers | {"clip": None})
    assert plan_digest(of_before)[:12] == "f15f36a28cae"
    assert plan_digest(plan(DRN)) != plan_digest(plan(DRN, problem={"stride": 32}))


def test_a_later_option_is_in_the_key_only_where_it_changes_something() -> None:
    before, same, clipped, relative = (
        finetune._reads_full(Opened(plan(DRN, finetune=how)), BASE, DATA, "jpeg:quality=5")
        for how in (
            {"optimizer": {}},
            {"clip": None, "optimizer": {"relative": False}},
            {"clip": 1.0, "optimizer": {}},
            {"optimizer": {"relative": True}},
        )
    )
    assert before == same
    assert len({str(key["finetune"]) for key in (before, clipped, relative)}) == 3


def test_a_teacher_is_in_an_adaptors_key_only_where_it_teaches() -> None:
    chosen = Selection(level="jpeg:quality=5", layers=("a",), num_values=1, bound=2)
    teachers = [Network(level="", weights=Ref(uri=u, sha256=u, size=1), epoch_losses=(), seconds=0.0) for u in "xy"]

    def key(share: float, teacher: Network | None) -> dict[str, Any]:
        ours = Opened(plan(DRN, partial={"distill": share}))
        return finetune._reads_partial(ours, BASE, DATA, "jpeg:quality=5", chosen, teacher)

    assert key(0.0, None) == key(0.0, teachers[0]) == key(0.0, teachers[1])
    assert key(0.5, teachers[0]) != key(0.5, teachers[1])
    assert key(0.5, teachers[0]) != key(0.25, teachers[0])


def test_what_adaptors_are_compared_with_does_not_tell_plans_apart() -> None:
    assert plan_digest(plan(DRN)) == plan_digest(plan(DRN, benchmark={"seeds": [1, 2]}))
    assert benchmark_digest(plan(DRN)) != benchmark_digest(plan(DRN, benchmark={"seeds": [1, 2]}))
