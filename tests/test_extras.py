"""Without an extra, what needs it ends in one line that says which to install."""

import sys
import tomllib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from flows.cli.app import app
from flows.running import clusters
from gearnn.errors import GearNNError
from gearnn.plan import Plan
from gearnn.registry.servers import check_mlflow
from infra import services
from tasks.doctor import plan as doctor
from tests.conftest import REPOSITORY

EXTRAS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
STREETS = REPOSITORY / "flows/plans/streets_jpeg.yaml"


def refused(call: Callable[[], object]) -> str:
    with pytest.raises((GearNNError, services.ServiceError)) as caught:
        call()
    return str(caught.value)


def asks_for(extra: str, message: str) -> bool:
    assert extra in EXTRAS
    return message.endswith(f"pip install 'gearnn[{extra}]'") and "\n" not in message


@pytest.mark.parametrize("kind", ["dask", "ray"])
@pytest.mark.parametrize("address", ["", "127.0.0.1:1"])
def test_a_runner_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, kind: str, address: str) -> None:
    for module in (f"prefect_{kind}", f"prefect_{kind}.task_runners"):
        monkeypatch.setitem(sys.modules, module, None)
    with ExitStack() as stack:
        message = refused(lambda: getattr(clusters, kind)(address, 1, stack))
    assert message.startswith(f"plan: runner: {kind} is not installed")
    assert asks_for(kind, message)


@pytest.mark.parametrize("kind", ["dask", "ray"])
def test_a_runner_that_is_not_installed_is_found_by_the_doctor(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setitem(sys.modules, f"prefect_{kind}", None)
    plan = Plan.load(STREETS).model_copy(update={"runner": kind})
    assert asks_for(kind, refused(lambda: doctor._runner(plan)))


@pytest.mark.parametrize("command", ["adapt", "train-base", "benchmark"])
def test_a_command_looks_for_its_runner_before_all_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    (tmp_path / "plan.yaml").write_text(f"{STREETS.read_text()}\nrunner: ray\n")
    monkeypatch.setitem(sys.modules, "prefect_ray", None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        app([command, "plan.yaml"])
    (line,) = capsys.readouterr().err.splitlines()
    assert asks_for("ray", line)


def test_a_database_whose_driver_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://user:secret@127.0.0.1:1/mlflow")
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    message = refused(check_mlflow)
    assert asks_for("services", message)
    assert "secret" not in message


@pytest.mark.parametrize("module", ["flask_wtf", "psycopg2"])
def test_servers_whose_packages_are_not_installed(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setattr(services.postgres, "binaries", lambda: Path())
    monkeypatch.setitem(sys.modules, module, None)
    message = refused(services.require_installed)
    assert message.startswith(f"expected the Python package {module}, but there is none")
    assert asks_for("services", message)


def test_servers_without_seaweedfs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services.postgres, "binaries", lambda: Path())
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    assert asks_for("services", refused(services.require_installed))
