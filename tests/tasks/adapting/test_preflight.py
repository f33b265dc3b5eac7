"""What a flow looks at before it trains, and what it does not do twice."""

import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

from flows.adapt import adapt
from flows.benchmark import benchmark
from flows.train_base import train_base
from gearnn.errors import PlanError, ServerError, StoreError
from gearnn.layers import model_size
from gearnn.plan import Plan
from gearnn.plan.opened import Opened
from gearnn.plan.preflight import check_disk
from tasks.adapting import preflight
from tasks.adapting.base import prepare_base
from tasks.adapting.data import check_data
from tasks.adapting.finetune import full_finetune

pytestmark = pytest.mark.filterwarnings("ignore")  # of Prefect and MLflow


@pytest.fixture(autouse=True)
def nothing_passed_yet() -> Iterator[None]:
    with patch.object(preflight, "_passed", set()):
        yield


def plan(folder: Path, **changes: Any) -> Plan:
    content = {
        "base": {"name": "drn_d_22_quarter", "train": {"epochs": 1}},
        "data": {"name": "streets", "frames": {"train": 8, "val": 4, "test": 4}, "camera": {"size": [44, 30]}},
        "levels": ["jpeg:quality=5", "jpeg:quality=20"],
        "bound": {"fraction": 0.01},
        "finetune": {"epochs": 1, "batch_size": 4},
        "store": str(folder / "store"),
    }
    return Plan.read(content | changes, source="test")


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("flow", [adapt, benchmark, train_base])
def test_a_gpu_plan_fails_in_one_line_on_a_worker_without_one(
    tmp_path: Path, flow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(PlanError) as failure:
        flow(plan(tmp_path, device="cuda"))
    assert str(failure.value) == (
        f"plan: device: expected one that this machine has, but got 'cuda': {platform.node()} has 0 GPUs that torch "
        "can use; run it where one is, or set device: auto"
    )
    assert not (tmp_path / "store" / "records").exists()


def test_a_worker_is_told_by_its_work_pool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    run = SimpleNamespace(flow_run=SimpleNamespace(work_pool_name="gpu"))
    monkeypatch.setattr(preflight.FlowRunContext, "get", lambda: run)
    with pytest.raises(PlanError, match=f"{platform.node()}, a worker of the work pool gpu, has 0 GPUs"):
        preflight.check_surroundings(plan(tmp_path, device="cuda:1"))


def test_the_device_of_a_cluster_elsewhere_is_not_looked_for_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    preflight.check_plan(plan(tmp_path, device="cuda", runner="dask://cluster:8786"))


def test_the_plan_is_tried_once_a_process_and_the_surroundings_each_time(tmp_path: Path) -> None:
    ours, done = plan(tmp_path), []

    def note(name: str) -> Any:
        return patch.object(preflight, name, lambda *_: done.append(name))

    with note("check_network"), note("check_surroundings"):
        preflight.check_plan(ours)
        preflight.check_plan(ours)
        preflight.check_plan(plan(tmp_path, seed=1))
    around, tried = "check_surroundings", "check_network"
    assert done == [around, tried, around, around, tried]


def test_a_plan_that_failed_is_tried_again(tmp_path: Path) -> None:
    ours = plan(tmp_path)
    with patch.object(preflight, "check_network", side_effect=PlanError("no")), pytest.raises(PlanError):
        preflight.check_plan(ours)
    with patch.object(preflight, "check_network") as tried:
        preflight.check_plan(ours)
    tried.assert_called_once()


def test_servers_are_looked_at_before_anything_is_read(tmp_path: Path) -> None:
    ours = plan(tmp_path)
    with (
        patch.object(preflight, "check_prefect", side_effect=ServerError("too old")),
        patch.object(Opened, "base") as opened,
        pytest.raises(ServerError, match="too old"),
    ):
        preflight.check_plan(ours)
    opened.assert_not_called()


def test_a_full_disk_counts_every_level_and_less_for_those_that_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gearnn.plan.preflight.cores", lambda: [0])
    ours = Opened(plan(tmp_path))
    base = ours.base()
    network = 4 * model_size(base)
    adaptor = 4 * ours.plan.bound.in_values(model_size(base))
    # the base, the control, two full fine-tunes, two adaptors; a checkpoint with Adam's two moments, and the next one
    assert check_disk(ours, base) == 4 * network + 2 * adaptor + 2 * 3 * network

    data = check_data.run(ours)
    made = prepare_base.run(ours, data)
    full_finetune.run(ours, made, data, "jpeg:quality=5")
    one_less = 3 * network + adaptor + 2 * 3 * network
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=one_less))
    assert preflight.check_space(ours, base) == one_less
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=one_less - 1))
    with pytest.raises(StoreError, match=r"expected about 36 MB free for 1 levels on the disk of .*store, but got"):
        preflight.check_space(ours, base)
