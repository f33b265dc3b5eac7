"""Debian's Postgres with a data folder and a password of its own.

It refuses to run as root; for root it runs as the user ``postgres``, with its data where that user may be.
"""

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from infra.services.processes import ServiceError
from infra.services.state import USER, State, write_secret

ACCOUNT = "postgres"  # of the operating system
DATABASES = ("prefect", "mlflow", "mlflow_auth")


def binaries() -> Path:
    """The folder of the newest Postgres.

    Raises:
        ServiceError: none is installed.
    """
    found = [p.parent for p in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if not found and (elsewhere := shutil.which("initdb")):
        found = [Path(elsewhere).resolve().parent]
    if not found:
        raise ServiceError("expected Postgres in /usr/lib/postgresql, but there is none; apt-get install postgresql")
    return max(found, key=lambda p: [int(n) for n in re.findall(r"\d+", p.parent.name)])


def home(folder: Path) -> Path:
    """Where the data of this folder's Postgres lies."""
    if os.geteuid() != 0:
        return folder / "postgres"
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    return Path("/var/lib/postgresql") / f"gearnn-{digest}"


def account() -> str | None:
    """Whom to run Postgres as, where that is not the current user."""
    return ACCOUNT if os.geteuid() == 0 else None


def url(state: State, driver: str, database: str) -> str:
    """The address of a database, with its password."""
    return f"{driver}://{USER}:{state.passwords.postgres}@127.0.0.1:{state.ports.postgres}/{database}"


def command(state: State) -> list[str]:
    """What runs the server, on the loopback only and without a socket in the file system."""
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": str(state.ports.postgres),
        "unix_socket_directories": "",
        "max_connections": "200",
    }
    flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return [str(binaries() / "postgres"), "-D", str(home(state.folder) / "data"), *flags]


def prepare(state: State) -> None:
    """Make the data folder, where there is none; a half-made one is made anew.

    Raises:
        ServiceError: Postgres is not installed, or the folder cannot be made.
    """
    place, draft = home(state.folder), home(state.folder) / "draft"
    if (place / "data").exists():
        return
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    shutil.rmtree(draft, ignore_errors=True)
    write_secret(place / "password", state.passwords.postgres)
    if account():
        shutil.chown(place, ACCOUNT, ACCOUNT)
        shutil.chown(place / "password", ACCOUNT, ACCOUNT)
    initdb = [str(binaries() / "initdb"), f"--pgdata={draft}", f"--username={USER}", f"--pwfile={place / 'password'}"]
    initdb += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-instructions", "--no-sync"]
    made = subprocess.run(initdb, user=account(), group=account(), cwd=place, capture_output=True, text=True)
    (place / "password").unlink()
    if made.returncode != 0:
        raise ServiceError(f"initdb could not make {draft}: {(made.stderr.strip().splitlines() or ['no reason'])[-1]}")
    draft.rename(place / "data")


def make_databases(state: State) -> None:
    """Make the databases of Prefect and MLflow, where they are missing.

    Raises:
        psycopg2.OperationalError: the server does not answer yet.
    """
    import psycopg2

    connection = psycopg2.connect(url(state, "postgresql", "postgres"), connect_timeout=5)
    try:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute("SELECT datname FROM pg_database")
        there = {name for (name,) in cursor.fetchall()}
        for database in DATABASES:
            if database not in there:
                cursor.execute(f"CREATE DATABASE {database}")
    finally:
        connection.close()
