"""What is remembered about the servers of one folder: ports, passwords, processes."""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Self

from infra.services.processes import Process, free_ports

USER = "gearnn"  # of Postgres, Prefect and MLflow alike
BUCKET = "gearnn"


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Where the servers listen, on the loopback only."""

    prefect: int = 4200
    mlflow: int = 5000
    postgres: int = 5433
    s3: int = 8333  # each of SeaweedFS' ports takes its successor by 10,000 as well
    s3_master: int = 8334
    s3_volume: int = 8335
    s3_filer: int = 8336

    @classmethod
    def free(cls) -> Self:
        """Ports that nobody uses at the moment."""
        return cls(**dict(zip(cls.__dataclass_fields__, free_ports(len(cls.__dataclass_fields__)), strict=True)))


@dataclass(frozen=True, kw_only=True)
class Passwords:
    """Generated once for a folder, and never printed."""

    postgres: str = field(default_factory=lambda: secrets.token_hex(16))
    prefect: str = field(default_factory=lambda: secrets.token_hex(16))
    mlflow: str = field(default_factory=lambda: secrets.token_hex(16))
    mlflow_sessions: str = field(default_factory=lambda: secrets.token_hex(32))
    s3_inner: str = field(default_factory=lambda: secrets.token_hex(32))
    s3_key: str = field(default_factory=lambda: secrets.token_hex(10))
    s3_secret: str = field(default_factory=lambda: secrets.token_hex(20))
    s3_reader_key: str = field(default_factory=lambda: secrets.token_hex(10))
    s3_reader_secret: str = field(default_factory=lambda: secrets.token_hex(20))


@dataclass(frozen=True, kw_only=True)
class State:
    """The servers of one folder."""

    folder: Path
    ports: Ports
    passwords: Passwords
    processes: dict[str, Process] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> "State | None":
        """What was saved for a folder, or None where servers were never started."""
        file = folder / "state.json"
        if not file.exists():
            return None
        saved = json.loads(file.read_text())
        return cls(
            folder=folder,
            ports=Ports(**saved["ports"]),
            passwords=Passwords(**saved["passwords"]),
            processes={name: Process(**process) for name, process in saved["processes"].items()},
        )

    def save(self) -> None:
        """Write ``state.json`` and ``env`` for the owner's eyes only."""
        saved = {k: asdict(v) for k, v in (("ports", self.ports), ("passwords", self.passwords))}
        saved["processes"] = {name: asdict(process) for name, process in self.processes.items()}
        write_secret(self.folder / "state.json", json.dumps(saved, indent=2))
        lines = [f"export {name}={value}\n" for name, value in self.environment().items()]
        write_secret(self.folder / "env", "".join(lines))

    def alive(self, name: str) -> bool:
        """Whether the process of a server runs."""
        return name in self.processes and self.processes[name].alive

    def environment(self) -> dict[str, str]:
        """What clients of all four servers need."""
        return {
            "PREFECT_API_URL": f"http://127.0.0.1:{self.ports.prefect}/api",
            "PREFECT_API_AUTH_STRING": f"{USER}:{self.passwords.prefect}",
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{self.ports.mlflow}",
            "MLFLOW_TRACKING_USERNAME": USER,
            "MLFLOW_TRACKING_PASSWORD": self.passwords.mlflow,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.ports.s3}",
            "AWS_ACCESS_KEY_ID": self.passwords.s3_key,
            "AWS_SECRET_ACCESS_KEY": self.passwords.s3_secret,
            "AWS_EC2_METADATA_DISABLED": "true",
            "DO_NOT_TRACK": "true",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }


def write_secret(path: Path, text: str) -> None:
    """Replace a file in one step by one that only its owner may read."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let nobody else start or stop the servers of this folder meanwhile."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / "lock").open("w") as file:
        flock(file, LOCK_EX)
        yield
