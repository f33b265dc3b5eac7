"""The four servers as the tests and `make services` run them."""

import base64
import json
import socket
import stat
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import psycopg2
import pytest
from botocore.exceptions import ClientError

from infra.services import (
    BUCKET,
    NAMES,
    Ports,
    ServiceError,
    Services,
    postgres,
    remove,
    require_installed,
    start,
    stop,
)
from infra.services.processes import taken_ports

pytestmark = pytest.mark.service


def post(url: str, user: str, password: str, body: dict[str, Any]) -> Any:
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers), timeout=60) as answer:
        return json.load(answer)


def prefect(services: Services, path: str, body: dict[str, Any]) -> Any:
    environment = services.environment()
    user, _, password = environment["PREFECT_API_AUTH_STRING"].partition(":")
    return post(f"{environment['PREFECT_API_URL']}/{path}", user, password, body)


def mlflow(services: Services, path: str, body: dict[str, Any]) -> Any:
    environment = services.environment()
    user, password = (environment[f"MLFLOW_TRACKING_{name}"] for name in ("USERNAME", "PASSWORD"))
    return post(f"{environment['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/{path}", user, password, body)


def s3(environment: dict[str, str]) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
    )


def query(address: str, statement: str) -> Any:
    connection = psycopg2.connect(address, connect_timeout=10)
    try:
        cursor = connection.cursor()
        cursor.execute(statement)
        return cursor.fetchall()
    finally:
        connection.close()


@pytest.fixture
def whole(services: Services) -> Iterator[Services]:
    """The session's servers, all of them running again afterwards."""
    yield services
    for name in NAMES:
        if not services.alive(name):
            services.resume(name)


def test_every_server_answers_to_its_password(services: Services) -> None:
    assert {name: services.answers(name) for name in NAMES} == dict.fromkeys(NAMES, True)


def test_prefect_refuses_a_wrong_password(services: Services) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401") as refusal:
        post(f"{services.environment()['PREFECT_API_URL']}/flows/count", "gearnn", "wrong", {})
    refusal.value.close()


def test_mlflow_refuses_a_wrong_password(services: Services) -> None:
    url = f"{services.environment()['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/experiments/search"
    with pytest.raises(urllib.error.HTTPError, match="401") as refusal:
        post(url, "gearnn", "wrong-password", {"max_results": 1})
    refusal.value.close()


def test_s3_refuses_a_wrong_secret(services: Services) -> None:
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        s3({**services.environment(), "AWS_SECRET_ACCESS_KEY": "wrong"}).list_objects_v2(Bucket=BUCKET)


def test_postgres_refuses_a_wrong_password(services: Services) -> None:
    password = services.state.passwords.postgres
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        query(services.database("prefect").replace(password, "wrong"), "SELECT 1")


def test_the_filer_under_s3_refuses_strangers(services: Services) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401") as refusal:
        urllib.request.urlopen(f"http://127.0.0.1:{services.state.ports.s3_filer}/buckets/{BUCKET}/", timeout=20)
    refusal.value.close()


def test_a_reader_of_the_bucket_may_not_write(services: Services) -> None:
    s3(services.environment()).put_object(Bucket=BUCKET, Key="read-me", Body=b"x")
    reader = s3(services.reader_environment())
    assert reader.get_object(Bucket=BUCKET, Key="read-me")["Body"].read() == b"x"
    with pytest.raises(ClientError, match="AccessDenied"):
        reader.put_object(Bucket=BUCKET, Key="write-me", Body=b"x")


def test_prefect_and_mlflow_keep_what_they_know_in_postgres(services: Services) -> None:
    prefect(services, "flows/", {"name": "in-postgres"})
    made = mlflow(services, "experiments/create", {"name": "in-postgres"})
    assert query(services.database("prefect"), "SELECT name FROM flow WHERE name = 'in-postgres'")
    known = query(services.database("mlflow"), "SELECT experiment_id FROM experiments WHERE name = 'in-postgres'")
    assert [str(number) for (number,) in known] == [made["experiment_id"]]
    assert query(services.database("mlflow_auth"), "SELECT username FROM users") == [("gearnn",)]


def test_artifacts_reach_the_bucket_through_mlflow_without_keys(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    for name, value in services.environment().items():
        if name.startswith("MLFLOW_"):
            monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    client = MlflowClient(tracking_uri=services.environment()["MLFLOW_TRACKING_URI"])
    run = client.create_run(client.create_experiment("artifacts"))
    client.log_text(run.info.run_id, "through the proxy", "note.txt")
    assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
    listed = s3(services.environment()).list_objects_v2(Bucket=BUCKET, Prefix="mlflow/")["Contents"]
    assert [entry["Size"] for entry in listed if entry["Key"].endswith("note.txt")] == [len("through the proxy")]


def test_passwords_are_for_the_owners_eyes_and_not_on_command_lines(services: Services) -> None:
    for name in ("env", "state.json", "s3/identities.json", "mlflow/auth.ini", "mlflow.log"):
        assert stat.S_IMODE((services.folder / name).stat().st_mode) == 0o600, name
    secret = [*vars(services.state.passwords).values()]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = process.read_bytes().decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        assert not [word for word in secret if word in line], line.split("\0")[0]


def test_starting_again_says_what_runs_and_changes_nothing(services: Services) -> None:
    said: list[str] = []
    before = services.state
    assert start(services.folder, say=said.append).state == before
    assert sorted(line.split()[0] for line in said) == ["MLflow", "Postgres", "Prefect", "S3"]
    assert all("runs at" in line for line in said)


def test_servers_that_run_do_not_move_to_other_ports(services: Services) -> None:
    with pytest.raises(ServiceError, match="run on other ports; stop them first"):
        start(services.folder, ports=Ports.free())


def test_killed_servers_come_back_with_their_data(whole: Services) -> None:
    prefect(whole, "flows/", {"name": "survivor"})
    made = mlflow(whole, "experiments/create", {"name": "survivor"})
    s3(whole.environment()).put_object(Bucket=BUCKET, Key="survivor", Body=b"still here")
    for name in NAMES:
        whole.kill(name)
    assert not any(map(whole.alive, NAMES))
    start(whole.folder)
    assert prefect(whole, "flows/filter", {"flows": {"name": {"any_": ["survivor"]}}})[0]["name"] == "survivor"
    assert (
        mlflow(whole, "experiments/search", {"max_results": 9, "filter": "name = 'survivor'"})["experiments"][0][
            "experiment_id"
        ]
        == (made["experiment_id"])
    )
    assert s3(whole.environment()).get_object(Bucket=BUCKET, Key="survivor")["Body"].read() == b"still here"


@pytest.mark.parametrize("name", NAMES)
def test_one_server_can_go_away_and_come_back(whole: Services, name: str) -> None:
    whole.kill(name)
    assert not whole.answers(name)
    assert not taken_ports(whole.servers[name].ports, patience_s=5)
    whole.resume(name)
    assert all(whole.answers(other) for other in NAMES)


def test_a_port_in_use_is_one_clear_line(services: Services, tmp_path: Path) -> None:
    ports = Ports.free()
    taken = Ports(**{**vars(ports), "postgres": services.state.ports.mlflow, "s3": services.state.ports.prefect})
    with pytest.raises(
        ServiceError,
        match=r"^Postgres needs port \d+, but another program listens there; end it, or start with --port ",
    ):
        start(tmp_path, ports=taken)
    remove(tmp_path)


def test_stopped_servers_leave_nothing_behind(tmp_path: Path) -> None:
    ports = Ports.free()
    with (
        pytest.raises(ServiceError, match=r"^Prefect needs port \d+"),
        socket.create_server(("127.0.0.1", ports.prefect)),
    ):
        start(tmp_path, ports=ports)
    services = Services(tmp_path)
    processes = services.state.processes.values()
    assert {name for name in NAMES if services.alive(name)} == {"postgres", "s3", "mlflow"}
    place, leftovers = postgres.home(tmp_path), services.servers["s3"].leftovers
    stop(tmp_path)
    assert not any(process.alive for process in processes)
    assert not any(path.exists() for path in leftovers)
    assert not any(taken_ports(server.ports) for server in services.servers.values())
    assert place.exists()
    remove(tmp_path)
    assert not place.exists()
    assert not tmp_path.exists()


def test_a_missing_server_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(ServiceError, match=r"pip install 'gearnn\[services\]'|apt-get install postgresql"):
        require_installed()
