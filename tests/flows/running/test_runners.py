"""The main job on threads, processes, a Dask cluster of two worker processes, and Ray: one result."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from flows.adapt import adapt
from flows.running import clusters, runner
from gearnn.errors import PlanError
from gearnn.models import build_model, save_checkpoint
from gearnn.plan import Plan
from tasks.records import Adapted
from tests.conftest import PYTHONPATH
from tests.shared import noting

pytestmark = [
    pytest.mark.usefixtures("prefect_server"),
    pytest.mark.filterwarnings("ignore"),  # of Prefect, MLflow, Dask and Ray
]

LEVELS = ["jpeg:quality=5", "jpeg:quality=20"]


class World:
    """A folder where every run has a store of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        torch.manual_seed(0)
        self.checkpoint = folder / "noting.safetensors"
        save_checkpoint(self.checkpoint, build_model("tests.shared.noting:Noting", 9, {}))

    def plan(self, name: str, runner: str) -> Plan:
        content = {
            "base": {"module": "tests.shared.noting:Noting", "num_classes": 9, "checkpoint": str(self.checkpoint)},
            "problem": {"name": "semantic_segmentation"},
            "data": {"name": "streets", "frames": {"train": 8, "val": 4, "test": 4}, "camera": {"size": [44, 30]}},
            "levels": LEVELS,
            "bound": {"fraction": 0.3},
            "finetune": {"epochs": 1, "batch_size": 4, "optimizer": {"lr": 0.01}},
            "store": str(self.folder / name / "store"),
            "workers": 2,
            "device": "cpu",
            "runner": runner,
        }
        return Plan.read(content, source="test")

    def notes(self, name: str) -> Path:
        """Folder with a file for every process that trained, made on demand."""
        folder = self.folder / name / "notes"
        folder.mkdir(parents=True, exist_ok=True)
        return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("runners"))


def run(world: World, monkeypatch: pytest.MonkeyPatch, name: str, runner: str, processes: int = 2) -> Adapted:
    """One run; shows that as many processes as expected trained, none of them this one if they are several."""
    notes = world.notes(name)
    monkeypatch.setenv("GEARNN_HOME", str(world.folder / "home"))
    monkeypatch.setenv("GEARNN_SLOTS", str(world.folder / "slots"))
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    monkeypatch.setenv(noting.FOLDER, str(notes))
    monkeypatch.setenv(noting.NUMBER, str(processes))
    adapted = adapt(world.plan(name, runner))
    trained = {int(path.name) for path in notes.iterdir()}
    more = len(trained) > processes and runner == "ray"  # Ray replaces a worker that it takes for idle
    assert len(trained) == processes or more
    assert (os.getpid() in trained) == (processes == 1)
    return adapted


def found(adapted: Adapted) -> dict[str, Any]:
    """What must not depend on where it was computed."""
    return {
        row.level: (
            row.adaptor.file.sha256,
            row.full.weights.sha256,
            row.table.parquet.sha256,
            row.selection.layers,
            row.full.epoch_losses,
            row.adaptor.epoch_losses,
            {solution: (score.values, score.per_class) for solution, score in row.scores.items()},
        )
        for row in adapted.rows
    }


@pytest.fixture(scope="module")
def local(world: World, prefect_server: None) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        return found(run(world, monkeypatch, "threads", "threads", processes=1))


def test_processes_give_what_threads_give(world: World, local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(world, monkeypatch, "processes", "processes")
    assert found(first) == local


def test_two_processes_of_a_dask_cluster_give_what_threads_give(
    world: World, local: Any, dask: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found(run(world, monkeypatch, "dask", dask)) == local


def test_ray_gives_what_threads_give(world: World, local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(run(world, monkeypatch, "ray", "ray")) == local


@pytest.fixture
def dask(world: World, tmp_path: Path) -> Iterator[str]:
    """A scheduler and two workers, each a process that knows of this one no more than an address."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {noting.FOLDER: str(world.notes("dask")), noting.NUMBER: "2", "PYTHONPATH": PYTHONPATH}
    environment |= {"GEARNN_SLOTS": str(world.folder / "slots")}
    port = free_port()
    scheduler = ["scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    worker = ["worker", f"tcp://127.0.0.1:{port}", "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    started = [
        subprocess.Popen([sys.executable, "-m", "dask", *command], cwd=tmp_path, env=environment, stderr=log.open("w"))
        for command, log in ((scheduler, tmp_path / "scheduler"), (worker, tmp_path / "a"), (worker, tmp_path / "b"))
    ]
    try:
        deadline = time.monotonic() + 90
        while not all("Registered to" in (tmp_path / name).read_text() for name in ("a", "b")):
            assert time.monotonic() < deadline, (tmp_path / "a").read_text()
            time.sleep(0.2)
        yield f"dask://127.0.0.1:{port}"
    finally:
        for process in reversed(started):
            process.kill()
            process.wait()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.parametrize("kind", ["dask", "ray"])
def test_a_cluster_that_nobody_runs_is_one_line(world: World, kind: str) -> None:
    port = free_port()
    with pytest.raises(
        PlanError, match=f"plan: runner: no {kind.title()} answers at {kind}://127.0.0.1:{port} .*; start one"
    ):
        adapt(world.plan("nobody", f"{kind}://127.0.0.1:{port}"))


def test_what_answers_but_is_no_dask_scheduler_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "_SECONDS_TO_ANSWER", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent, ExitStack() as stack:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(PlanError, match=f"no Dask answers at dask://{address} .timed out"):
            clusters.dask(address, 1, stack)


def test_workers_with_other_code_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import Client, LocalCluster

    with LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster, Client(cluster) as client:
        clusters._check_workers(client, "host:8786")
        own = clusters.about()
        monkeypatch.setattr(client, "run", lambda *_, **__: {"tcp://a": own | {"code": "0123"}})
        expected = f"code {own['code']} as this process does, but tcp://a of the Dask scheduler at host:8786 has .*0123"
        with pytest.raises(PlanError, match=expected):
            clusters._check_workers(client, "host:8786")


@pytest.mark.parametrize(
    "wrong", ["thread", "dask://", "dask://host", "ray://host:port", "threads://a:1", "dask://a:1/b"]
)
def test_an_unknown_runner_is_one_line(world: World, wrong: str) -> None:
    expected = f"plan test: runner: expected threads, processes, dask, .* or ray://host:port, but got '{wrong}'"
    with pytest.raises(PlanError, match=expected):
        world.plan("wrong", wrong)


def test_as_many_steps_at_a_time_as_there_are_gpus_or_cores(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = world.plan("workers", "threads").model_copy(update={"workers": None, "device": "auto"})
    assert runner.workers_for(plan.model_copy(update={"workers": 5})) == 5
    monkeypatch.setattr(runner, "cores", lambda: list(range(8)))
    assert runner.workers_for(plan.model_copy(update={"threads": 3, "device": "cpu"})) == 2
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert runner.workers_for(plan) == 4
    assert runner.workers_for(plan.model_copy(update={"device": "cuda:1"})) == 1


def test_the_runner_of_a_flow_ends_with_it(world: World) -> None:
    before = set(threading.enumerate())
    with runner.PlannedTaskRunner(world.plan("ends", "threads")) as planned:
        assert planned._started_runner() is planned._started_runner()
    assert planned._runner is None
    assert set(threading.enumerate()) <= before
