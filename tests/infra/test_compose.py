"""The compose file says the same as what runs without Docker, and its worker image checks something real."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.make_env import EXAMPLE, make_env
from infra.services import BUCKET, Passwords, Ports, Services
from infra.services.processes import free_ports
from infra.services.servers import servers
from infra.services.state import State
from tests.conftest import REPOSITORY
from tests.shared.compose import COMPOSE, INFRA, SERVICES

ENDS = {"bucket"}  # it makes the bucket and ends
REQUIRED = re.compile(r"\$\{(\w+):\?set (\w+), see infra/env\.example\}")


def dockerfile(name: str, keyword: str) -> str:
    """The last instruction of this kind, without its continuation lines' backslashes."""
    text = (INFRA / name).read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line.startswith(f"{keyword} ")][-1]


def test_every_secret_must_be_given() -> None:
    text = (INFRA / "compose.yaml").read_text()
    asked = REQUIRED.findall(text)
    assert all(name == named for name, named in asked)
    assert len(asked) == text.count("${")  # nothing has a default
    names = [line.partition("=") for line in EXAMPLE.read_text().splitlines() if not line.startswith("#")]
    assert {name for name, _, _ in names} == {name for name, _ in asked}
    assert [value for _, _, value in names if value] == []


def test_every_word_that_looks_secret_is_one() -> None:
    for name, service in SERVICES.items():
        for key, value in service["environment"].items():
            if re.search("PASSWORD|SECRET|AUTH_STRING|(ACCESS|SIGNING|READ)_KEY", key):
                assert REQUIRED.search(value), f"{name}: {key}"


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_watched_started_again_and_not_exposed(name: str) -> None:
    service = SERVICES[name]
    assert ("healthcheck" in service) == (name not in ENDS)
    assert service["restart"] == ("on-failure" if name in ENDS else "unless-stopped")
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_services_wait_for_those_that_exist_in_a_way_they_can() -> None:
    for service in SERVICES.values():
        for other, how in service.get("depends_on", {}).items():
            assert how["condition"] == ("service_completed_successfully" if other in ENDS else "service_healthy")
            assert other in SERVICES


def test_every_volume_is_declared_and_every_mounted_file_is_there() -> None:
    mounts = [volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])]
    assert {m for m in mounts if not m.startswith("./")} == set(COMPOSE["volumes"])
    assert all((INFRA / m).is_file() for m in mounts if m.startswith("./"))
    builds = [service["build"]["dockerfile"] for service in SERVICES.values() if "build" in service]
    assert all((REPOSITORY / file).is_file() for file in builds)


def plain(value: str) -> str:
    """A value without its secrets and without where the servers are."""
    value = re.sub(r"[0-9a-f]{20,}", "*", REQUIRED.sub("*", value))
    return re.sub(r"(127\.0\.0\.1|postgres|s3|prefect|mlflow):\d+", "there", value)


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(folder=tmp_path, ports=Ports(), passwords=Passwords())


@pytest.mark.parametrize(
    ("name", "elsewhere", "only_there"),
    [
        ("prefect", {"PREFECT_HOME", "PREFECT_SERVER_UI_STATIC_DIRECTORY"}, set()),
        ("mlflow", {"MLFLOW_AUTH_CONFIG_PATH"}, {"MLFLOW_SERVER_ALLOWED_HOSTS", "MLFLOW_AUTH_CONFIG_PATH"}),
        ("s3", set(), {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}),  # a file of identities here
    ],
)
def test_a_server_is_told_the_same_with_and_without_docker(
    state: State, name: str, elsewhere: set[str], only_there: set[str]
) -> None:
    quiet = {"DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY", "PREFECT_SERVER_ANALYTICS_ENABLED"}
    here = {k: plain(v) for k, v in servers(state)[name].environment.items() if k not in elsewhere}
    there = {k: plain(v) for k, v in SERVICES[name]["environment"].items() if k not in only_there | quiet}
    assert here == there


def test_the_worker_knows_what_every_client_must_know(state: State) -> None:
    here = {name: plain(value) for name, value in state.environment().items()}
    there = {name: plain(value) for name, value in SERVICES["worker"]["environment"].items()}
    assert here.items() <= there.items()


def test_every_database_is_made() -> None:
    made = re.findall(r"CREATE DATABASE (\w+);", (INFRA / "compose-databases.sql").read_text())
    assert {*made, SERVICES["postgres"]["environment"]["POSTGRES_DB"]} == {"prefect", "mlflow", "mlflow_auth"}


def test_mlflow_checks_passwords_the_same_way_with_and_without_docker(state: State) -> None:
    servers(state)["mlflow"].prepare()
    _, *there = (INFRA / "compose-mlflow-auth.ini").read_text().splitlines()
    assert [plain(line) for line in there] == plain((state.folder / "mlflow" / "auth.ini").read_text()).splitlines()


def test_the_worker_gets_one_gpu_and_runs_one_flow_at_a_time() -> None:
    (device,) = SERVICES["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    command = json.loads(dockerfile("worker.Dockerfile", "CMD").removeprefix("CMD "))
    assert {"--pool=gpu", "--limit=1", "--with-healthcheck"} <= set(command)
    assert dockerfile("worker.Dockerfile", "USER") == "USER worker"


def test_the_worker_image_has_the_code_where_deployments_look_for_it() -> None:
    text = (INFRA / "worker.Dockerfile").read_text()
    folder = re.search(r"^WORKDIR (\S+)$", text, re.MULTILINE)
    assert folder is not None
    assert f"GEARNN_WORKDIR={folder[1]} " in text
    copied = [word for line in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE) for word in line.split()]
    kept = (INFRA / "worker.Dockerfile.dockerignore").read_text().splitlines()
    assert [word for word in copied if f"!{word}" not in kept or not (REPOSITORY / word).exists()] == []
    pulled = re.findall(r"\$\{GEARNN_WORKDIR\}/(\S+)", (REPOSITORY / "prefect.yaml").read_text())
    pulled += re.findall(r"\$workdir/(infra/[\w.]+)", (INFRA / "checkout.sh").read_text())
    assert set(pulled) <= set(copied)


@pytest.mark.parametrize(("name", "service"), [("worker.Dockerfile", "worker"), ("mlflow.Dockerfile", "mlflow")])
def test_an_image_checks_its_health_as_compose_does(name: str, service: str) -> None:
    check = json.loads(dockerfile(name, "HEALTHCHECK").partition(" CMD ")[2])
    assert SERVICES[service]["healthcheck"]["test"] == ["CMD", *check]


def test_generated_secrets_are_for_the_owners_eyes_and_never_replaced(tmp_path: Path) -> None:
    file = tmp_path / "new" / "compose.env"
    make_env(file)
    assert file.stat().st_mode & 0o777 == 0o600
    values = dict(line.split("=") for line in file.read_text().splitlines())
    assert set(values) == {name for name, _ in REQUIRED.findall((INFRA / "compose.yaml").read_text())}
    assert len(set(values.values())) == len(values)
    with pytest.raises(FileExistsError, match="its passwords are in use"):
        make_env(file)


def health(port: int) -> int:
    """The exit status of the worker image's own check, for a worker on this port."""
    _, *check = SERVICES["worker"]["healthcheck"]["test"]
    program = [sys.executable, *(part.replace("8080", str(port)) for part in check[1:])]
    return subprocess.run(program, capture_output=True, timeout=60).returncode


@pytest.fixture
def worker(services: Services, tmp_path: Path) -> Iterator[int]:
    """The worker image's command against the real server; yields the port of its health."""
    (port,) = free_ports(1)
    command = json.loads(dockerfile("worker.Dockerfile", "CMD").removeprefix("CMD "))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    environment |= {**services.environment(), "PREFECT_HOME": str(tmp_path), "PREFECT_WORKER_WEBSERVER_PORT": str(port)}
    with (tmp_path / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], env=environment, stdout=log, stderr=log, cwd=tmp_path
        )
    try:
        deadline = time.monotonic() + 120
        while health(port) != 0 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.5)
        assert process.poll() is None, (tmp_path / "worker.log").read_text()
        yield port
    finally:
        process.kill()
        process.wait()


@pytest.mark.service
def test_the_workers_health_is_its_own_and_ends_with_it(worker: int) -> None:
    assert health(worker) == 0
    assert health(free_ports(1)[0]) != 0


@pytest.mark.service
def test_the_bucket_is_made_once_and_again_without_harm(services: Services) -> None:
    program = SERVICES["bucket"]["command"]
    for _ in range(2):
        made = subprocess.run(
            [sys.executable, *program[1:]],
            env={**os.environ, **services.environment(), "AWS_DEFAULT_REGION": "us-east-1"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert made.returncode == 0, f"{shlex.join(program)}: {made.stderr}"
    assert f'Bucket="{BUCKET}"' in program[-1]
