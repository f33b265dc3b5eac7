"""What `gearnn doctor` says, word by word: of real servers, of servers that are away, and of one that is too old."""

import json
import platform
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from typer.testing import CliRunner, Result

from flows.cli import app as cli
from gearnn.plan import Plan
from gearnn.store import bucket
from tasks.doctor.checks import Check, attempt
from tasks.prefect_server import asking

if TYPE_CHECKING:
    from infra.services import Services

pytestmark = pytest.mark.filterwarnings("ignore")  # of Prefect and MLflow
POOL = "doctors"
FLOWS = ("adapt", "adapt-level", "benchmark", "retrain", "train-base")


@pytest.fixture(autouse=True)
def new_clients() -> Iterator[None]:
    bucket._client.cache_clear()
    yield
    bucket._client.cache_clear()


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    return write(tmp_path)


def write(folder: Path, **changes: Any) -> Path:
    content = {
        "base": {"name": "drn_d_22_quarter", "train": {"epochs": 1}},
        "data": {"name": "streets", "frames": {"train": 8, "val": 4, "test": 4}, "camera": {"size": [44, 30]}},
        "levels": ["jpeg:quality=5", "jpeg:quality=20"],
        "store": str(folder / "store"),
    }
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(content | changes))
    return path


def doctor(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["doctor", *map(str, arguments)])


def line(result: Result, what: str) -> str:
    """The mark and what was found in the line on something."""
    cells = [(text[:4].strip(), *text[6:].strip().split("  ", 1)) for text in result.stdout.splitlines()]
    found = [f"{cell[0]}: {cell[2].strip()}" for cell in cells if len(cell) == 3 and cell[1] == what]
    assert len(found) == 1, result.output
    return found[0]


@contextmanager
def prefect_at(address: str | None, login: str | None = None) -> Iterator[None]:
    given = {PREFECT_API_URL: address, PREFECT_API_AUTH_STRING: login}
    absent = {setting for setting, value in given.items() if value is None}
    with temporary_settings(updates={s: v for s, v in given.items() if v is not None}, restore_defaults=absent):
        yield


@contextmanager
def all_of(services: "Services", monkeypatch: pytest.MonkeyPatch, **other: str) -> Iterator[dict[str, str]]:
    environment = services.environment() | other
    for name, value in environment.items():
        if not name.startswith("PREFECT_"):
            monkeypatch.setenv(name, value)
    with prefect_at(environment["PREFECT_API_URL"], environment["PREFECT_API_AUTH_STRING"]):
        yield environment


@contextmanager
def deployed(**of_plan: Any) -> Iterator[None]:
    """A work pool with a worker, and every deployment on it."""
    with asking() as client:
        client._client.post("/work_pools/", json={"name": POOL, "type": "process"})
        client._client.post(f"/work_pools/{POOL}/workers/heartbeat", json={"name": "worker-1"})
        ids = []
        for name in FLOWS:
            flow = client._client.post("/flows/", json={"name": name}).json()["id"]
            schema = {"definitions": {"Plan": {"properties": Plan.model_json_schema()["properties"] | of_plan}}}
            made = {"name": "doctor", "flow_id": flow, "work_pool_name": POOL, "parameter_openapi_schema": schema}
            made |= {"concurrency_limit": 3} if name == "adapt" else {}
            ids.append(client._client.post("/deployments/", json=made).json()["id"])
    try:
        yield
    finally:
        with asking() as client:
            for one in ids:
                client._client.delete(f"/deployments/{one}")
            client._client.delete(f"/work_pools/{POOL}")


@pytest.mark.service
def test_all_is_well(services: "Services", plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with all_of(services, monkeypatch) as here, deployed():
        result = doctor(plan, "--pool", POOL)
    assert result.exit_code == 0, result.output
    assert line(result, "Prefect") == f"ok: {here['PREFECT_API_URL']}, version 3.8.8"
    assert line(result, f"work pool {POOL}") == "ok: type process, online: worker-1"
    names = ", ".join(f"{flow}/doctor" for flow in FLOWS)
    assert line(result, "deployments") == f"ok: {names}"
    assert line(result, "runs at a time") == "ok: adapt/doctor 0 of 3"
    assert line(result, "MLflow") == f"ok: {here['MLFLOW_TRACKING_URI']}, version 3.17.2, as gearnn"
    assert line(result, "MLflow writing") == "ok: a run and an artifact were written and read, the latter removed"
    assert line(result, "plan") == f"ok: {plan}: 2 levels, drn_d_22_quarter on streets"
    assert line(result, "store") == f"ok: {plan.parent / 'store'} can be written to, read from and deleted from"
    assert line(result, "frames") == "ok: 8 in train, 4 in val, 4 in test of streets"
    assert "fail" not in result.stdout.replace(" 0 failed", "")
    for name, secret in here.items():
        if any(word in name for word in ("PASSWORD", "SECRET", "AUTH_STRING")):
            assert secret not in result.output
    assert not (plan.parent / "store" / "records").exists()


@pytest.mark.service
def test_wrong_passwords_and_a_pool_that_is_missing(services: "Services", monkeypatch: pytest.MonkeyPatch) -> None:
    with all_of(services, monkeypatch, MLFLOW_TRACKING_PASSWORD="x", PREFECT_API_AUTH_STRING="gearnn:x") as here:
        wrong = doctor()
    assert wrong.exit_code == 1
    assert line(wrong, "Prefect") == (
        f"fail: Prefect at {here['PREFECT_API_URL']}: expected to be let in, but got 401; "
        "PREFECT_API_AUTH_STRING is wrong"
    )
    assert line(wrong, "MLflow") == (
        f"fail: MLflow at {here['MLFLOW_TRACKING_URI']}: expected to be let in, but got 401; "
        "one of MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD is wrong"
    )
    with all_of(services, monkeypatch):
        with deployed(sharpness={}):
            other = doctor("--pool", POOL)
        with asking() as client:
            client._client.post("/work_pools/", json={"name": "lonely", "type": "process"})
        missing, lonely = doctor("--pool", "nowhere"), doctor("--pool", "lonely")
        with asking() as client:
            client._client.delete("/work_pools/lonely")
    assert line(other, "deployments") == (
        "warn: deployed from another version, whose plans differ in sharpness; `prefect --no-prompt deploy --all`"
    )
    assert missing.exit_code == 1
    assert line(missing, "work pool nowhere").startswith("fail: expected a work pool of this name, but the server has ")
    assert line(missing, "work pool nowhere").endswith(
        "lonely; `prefect work-pool create nowhere --type process`, or --pool with another name"
    )
    assert lonely.exit_code == 0
    assert line(lonely, "work pool lonely") == (
        "warn: no worker is online, its runs wait; `prefect worker start --pool lonely` on a machine with a GPU"
    )
    assert line(lonely, "deployments") == (
        "warn: none on the work pool lonely for adapt, adapt-level, benchmark, retrain, train-base; "
        "`prefect --no-prompt deploy --all`"
    )


@pytest.mark.service
def test_a_bucket_that_may_only_be_read(services: "Services", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = write(tmp_path, store="s3://gearnn/doctor")
    monkeypatch.setattr("gearnn.store.bucket.uuid4", lambda: SimpleNamespace(hex="0" * 32))
    for name, value in services.reader_environment().items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    with prefect_at(None):
        result = doctor(plan)
    assert result.exit_code == 1
    assert line(result, "store") == (
        "fail: s3://gearnn/doctor/scratch/.probe-00000000: expected S3 to answer, but got: An error occurred "
        "(AccessDenied) when calling the PutObject operation: Access Denied.; the keys are valid, but may not do this"
    )


def test_servers_that_are_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = write(tmp_path, store="s3://gearnn/doctor", runner="dask://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:secret@127.0.0.1:9")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with prefect_at("http://127.0.0.1:9/api"):
        result = doctor(plan)
    assert result.exit_code == 2, result.output  # the plan names a cluster that is not there
    away = "[Errno 111] Connection refused"
    assert line(result, "Prefect") == (
        f"fail: Prefect at http://127.0.0.1:9/api: expected it to answer, but got: {away}; "
        "check PREFECT_API_URL and whether the server runs"
    )
    assert line(result, "MLflow") == (
        f"fail: MLflow at http://127.0.0.1:9: expected it to answer, but got: {away}; "
        "check MLFLOW_TRACKING_URI and whether the server runs"
    )
    assert "secret" not in result.output
    assert line(result, "store") == (
        f"fail: s3://gearnn/doctor: expected S3 to answer at http://127.0.0.1:9, but got: {away}; "
        "check AWS_ENDPOINT_URL and whether the server runs"
    )
    assert line(result, "runner") == (
        f"fail: plan: runner: nobody answers at dask://127.0.0.1:9 ({away}); start it, or check it"
    )


class Old(BaseHTTPRequestHandler):
    """A server of years ago: MLflow's and Prefect's in one."""

    def do_GET(self) -> None:
        versions = {"/version": "2.22.0", "/api/admin/version": json.dumps("3.1.4")}
        self.send_response(200 if self.path in versions else 404)
        self.end_headers()
        self.wfile.write(versions.get(self.path, "").encode())

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def old() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Old)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_servers_that_are_too_old(old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", old)
    with prefect_at(f"{old}/api"):
        result = doctor()
    assert result.exit_code == 1
    assert line(result, "Prefect") == (
        f"fail: Prefect at {old}/api: expected at least version 3.8, but got 3.1.4; upgrade the server"
    )
    assert line(result, "MLflow") == (
        f"fail: MLflow at {old}: expected at least version 3.17, but got 2.22.0; upgrade the server"
    )


def test_without_servers_nothing_is_wrong(plan: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with prefect_at(None):
        result = doctor(plan)
    assert result.exit_code == 0, result.output
    assert line(result, "Prefect") == (
        "ok: PREFECT_API_URL is not set: each command starts a server of its own; no work pools, no deployments"
    )
    assert line(result, "MLflow") == (
        f"ok: MLFLOW_TRACKING_URI is not set: sqlite:///{home}/mlflow.db on this machine is used"
    )
    assert not (home / "mlflow.db").exists()


def test_plans_that_cannot_run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    monkeypatch.setattr("gearnn.plan.preflight.cores", lambda: [0])
    newer = tmp_path / "newer.yaml"
    newer.write_text("format: 2\n")
    with prefect_at(None):
        result, wrong = doctor(write(tmp_path, device="cuda")), doctor(newer)
    assert (result.exit_code, wrong.exit_code) == (2, 2), result.output
    assert line(result, "device") == (
        f"fail: plan: device: expected one that this machine has, but got 'cuda': {platform.node()} has 0 GPUs that "
        "torch can use; run it where one is, or set device: auto"
    )
    store = tmp_path / "store"
    assert line(result, "base") == (
        f"fail: store {store}: expected about 40 MB free for 2 levels on the disk of {store}, but got 1 MB; free some "
        "(`gearnn cache show` says what distorted frames and copies take), or set store to another disk"
    )
    assert line(result, "disk").startswith("warn: 0.0 GB free at ")
    assert line(wrong, "plan") == (
        f"fail: plan {newer}: format: expected at most 1, which GearNN 0.1.0 knows, but got 2; "
        f"update gearnn here ({platform.node()})"
    )


def test_a_check_that_takes_too_long_does_not_hold_up_the_others() -> None:
    wait = threading.Event()

    def endless() -> Iterator[Check]:
        yield Check(mark="ok", what="a", found="b")
        wait.wait(60)

    first, second = attempt("a", endless, longest_s=0.1)
    wait.set()
    assert first.found == "b"
    assert (second.mark, second.found, second.status) == ("fail", "expected an answer within 0 s, but got none", 1)
