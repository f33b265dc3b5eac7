from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gearnn.errors import StoppedError
from gearnn.finetune import Progress
from gearnn.plan import Plan
from gearnn.plan.opened import Opened
from tasks import progress
from tasks.records import Network
from tasks.step import step


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    content = {
        "base": {"name": "drn_d_22_quarter", "num_classes": 9, "train": {}},
        "data": {"name": "streets", "frames": {"train": 1, "val": 1, "test": 1}},
        "levels": ["jpeg:quality=10"],
        "store": str(tmp_path / "store"),
    }
    return Plan.read(content, source="test")


class Work:
    """A step that counts how often it is done, and can fail."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.fail = False
        self.scratch: Path | None = None

    def make(self, version: int = 1) -> Any:
        def work(opened: Opened, level: str, scratch: Path) -> Network:
            self.scratch = scratch
            scratch.write_text("epoch 1")
            if self.fail:
                raise RuntimeError("killed")
            self.done.append(level)
            weights = opened.store.put(level.encode())
            return Network(level=level, weights=weights, epoch_losses=(1.0,), seconds=0.0)

        def reads(opened: Opened, level: str) -> dict[str, Any]:
            return {"level": level, "seed": opened.plan.seed}

        return step(version=version, reads=reads, label="{level}", resumes=True)(work)


def test_a_step_is_done_once_per_what_it_reads(plan: Plan) -> None:
    work = Work()
    first = work.make().run(Opened(plan), "a")
    assert work.make().run(Opened(plan), "a") == first
    assert work.done == ["a"]
    work.make().run(Opened(plan), "b")
    work.make().run(Opened(plan.model_copy(update={"seed": 1})), "a")
    work.make().run(Opened(plan.model_copy(update={"workers": 7})), "a")  # not read
    assert work.done == ["a", "b", "a"]
    work.make(version=2).run(Opened(plan), "a")
    assert work.done == ["a", "b", "a", "a"]


def test_scratch_outlives_a_failure_and_goes_when_the_record_is_kept(plan: Plan) -> None:
    work = Work()
    work.fail = True
    with pytest.raises(RuntimeError, match="killed"):
        work.make().run(Opened(plan), "a")
    left = work.scratch
    assert left is not None
    assert left.read_text() == "epoch 1"
    work.fail = False
    work.make().run(Opened(plan), "a")
    assert work.scratch == left
    assert not left.exists()


@pytest.fixture
def stopped() -> Iterator[None]:
    progress.request_stop()
    yield
    progress.allow_start()


@pytest.mark.usefixtures("stopped")
def test_a_finetune_ends_at_its_next_step_once_asked_to() -> None:
    report = progress.reporter("full fine-tune a")
    with pytest.raises(StoppedError, match="full fine-tune a: stopped at step 3 of 9"):
        report(Progress(step=3, num_steps=9, epoch=1, num_epochs=3, loss=1.0, seconds_left=1.0))
