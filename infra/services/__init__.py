"""Real servers on the loopback without Docker: Postgres, S3 (SeaweedFS), Prefect, MLflow.

Every server asks for a password, generated once for a folder and kept there (``state.json`` and
``env``, for the owner's eyes only). Prefect and MLflow keep what they know in Postgres; MLflow's
artifacts go through it into the bucket, so that its clients need no keys for S3. The servers
outlive who started them: :func:`stop` ends them, :func:`remove` deletes their data as well.
"""

import shutil
import signal
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from threading import Lock

from infra.services import postgres
from infra.services.processes import ServiceError, end, spawn, taken_ports
from infra.services.servers import Server, servers, weed
from infra.services.state import BUCKET, USER, Passwords, Ports, State, locked

__all__ = [
    "BUCKET",
    "FOLDER",
    "NAMES",
    "USER",
    "Ports",
    "ServiceError",
    "Services",
    "remove",
    "require_installed",
    "start",
    "stop",
]

FOLDER = Path(".gearnn/services")
NAMES = ("postgres", "s3", "prefect", "mlflow")
_PATIENCE_S = 240.0  # machines are shared
Say = Callable[[str], None]


def start(folder: Path, *, ports: Ports | None = None, say: Say = print) -> "Services":
    """Start the servers of a folder that do not run; their data, ports and passwords stay what they were.

    Args:
        folder: made where it is missing; holds the data, the logs, and the passwords.
        ports: for a folder whose servers do not run; the usual ones, or those of the last time, otherwise.
        say: what to do with a line of progress.

    Raises:
        ServiceError: a program is missing, a port is taken, or a server does not come up.
    """
    require_installed()
    folder = folder.resolve()
    with locked(folder):
        state = State.load(folder) or State(folder=folder, ports=Ports(), passwords=Passwords())
        if ports not in (None, state.ports):
            if any(map(state.alive, NAMES)):
                raise ServiceError(f"the servers of {folder} run on other ports; stop them first")
            state = replace(state, ports=ports)
        state.save()
        services = Services(folder)
        services._start(NAMES, say)
        return services


def require_installed() -> None:
    """Say what is missing before anything starts.

    Raises:
        ServiceError: with what to install.
    """
    postgres.binaries()
    weed()
    for module in ("flask_wtf", "psycopg2"):
        if find_spec(module) is None:
            raise ServiceError(
                f"expected the Python package {module}, but there is none; pip install 'gearnn[services]'"
            )


def stop(folder: Path, *, say: Say = print) -> None:
    """End the servers of a folder; what they stored stays."""
    folder = folder.resolve()
    if not folder.exists():
        return
    with locked(folder):
        if State.load(folder):
            Services(folder)._stop(say)


def remove(folder: Path, *, say: Say = print) -> None:
    """End the servers of a folder, and delete what they stored and their passwords."""
    folder = folder.resolve()
    stop(folder, say=say)
    shutil.rmtree(postgres.home(folder), ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


class Services:
    """The servers of one folder: what clients need to know, and outages on purpose.

    A server is named ``postgres``, ``s3``, ``prefect`` or ``mlflow``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._saving = Lock()

    @classmethod
    def of(cls, folder: Path) -> "Services | None":
        """The servers of a folder, running or not; None where they were never started."""
        return cls(folder.resolve()) if State.load(folder.resolve()) else None

    @property
    def state(self) -> State:
        """Ports, passwords and processes as they are on disk now."""
        state = State.load(self.folder)
        if state is None:
            raise ServiceError(f"expected servers of {self.folder}, but they were removed")
        return state

    @property
    def servers(self) -> dict[str, Server]:
        """How each server is run."""
        return servers(self.state)

    def environment(self) -> dict[str, str]:
        """What clients of all four servers need."""
        return self.state.environment()

    def reader_environment(self) -> dict[str, str]:
        """The same for a user of S3 who may only read."""
        keys = self.state.passwords
        reader = {"AWS_ACCESS_KEY_ID": keys.s3_reader_key, "AWS_SECRET_ACCESS_KEY": keys.s3_reader_secret}
        return {**self.environment(), **reader}

    def database(self, name: str) -> str:
        """The address of a database (``prefect``, ``mlflow``, ``mlflow_auth``), with its password."""
        return postgres.url(self.state, "postgresql", name)

    def log(self, name: str) -> Path:
        """Where a server writes what it does."""
        return self.folder / f"{name}.log"

    def alive(self, name: str) -> bool:
        """Whether the process of a server runs."""
        return self.state.alive(name)

    def answers(self, name: str) -> bool:
        """Whether a server answers to its credentials at this moment."""
        return _reason_for_silence(self.servers[name]) is None

    def kill(self, name: str) -> None:
        """End a server as a crash would, with all its processes."""
        if process := self.state.processes.get(name):
            end(process, signal.SIGKILL, 0)

    def resume(self, name: str, *, say: Say = print) -> None:
        """Start a server that was killed, and wait until it and those that need it answer.

        Raises:
            ServiceError: it does not come up.
        """
        with locked(self.folder):
            self._start((name, *(n for n in NAMES if name in self.servers[n].needs and self.alive(n))), say)

    def _start(self, names: Iterable[str], say: Say) -> None:
        """Start each server as soon as those that it needs answer."""
        with ThreadPoolExecutor() as pool:
            futures: dict[str, Future[None]] = {}
            for name in names:  # those that others need come first
                before = [futures[n] for n in self.servers[name].needs if n in futures]
                futures[name] = pool.submit(self._start_one, name, before, say)
            errors = [error for future in futures.values() if (error := future.exception())]
        if errors:
            raise errors[0]

    def _start_one(self, name: str, before: list[Future[None]], say: Say) -> None:
        for future in before:
            future.result()
        server, began = self.servers[name], time.monotonic()
        if self.alive(name):
            self._wait(name, server)
            say(f"{server.title:9}runs at {server.address}")
            return
        self._spawn(name, server)
        self._wait(name, server)
        say(f"{server.title:9}started at {server.address} in {time.monotonic() - began:.0f} s")

    def _spawn(self, name: str, server: Server) -> None:
        patience_s = 0.0
        if left := self.state.processes.get(name):
            end(left, signal.SIGKILL, 0)  # what a crash has left of it
            patience_s = 5.0  # a dying process closes its sockets a moment after it is gone from the table
        if taken := taken_ports(server.ports, patience_s):
            where = f"port {', '.join(map(str, taken))}, but another program listens there"
            raise ServiceError(f"{server.title} needs {where}; end it, or start with --port {name}=NUMBER")
        _clear(server)
        command = server.command()
        server.prepare()
        cwd = postgres.home(self.folder) if name == "postgres" else self.folder
        process = spawn(command, server.whole_environment(), self.log(name), user=server.user, cwd=cwd)
        with self._saving:
            state = self.state
            state.processes[name] = process
            state.save()

    def _wait(self, name: str, server: Server) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while reason := _reason_for_silence(server):
            alive, late = self.alive(name), time.monotonic() > deadline
            last = (self.log(name).read_text(errors="replace").strip().splitlines() or [""])[-1]
            if late or not (alive or any(text in last for text in server.try_again)):
                state = f"does not answer ({reason})" if alive else "did not start"
                raise ServiceError(f"{server.title} {state}: {last}; its log: {self.log(name)}")
            time.sleep(0.3)
            if not alive:
                self._spawn(name, server)

    def _stop(self, say: Say) -> None:
        state, known = self.state, self.servers
        for names in (("prefect", "mlflow"), ("postgres", "s3")):  # those that need others first
            running = [name for name in names if name in state.processes]
            with ThreadPoolExecutor() as pool:
                list(pool.map(lambda n: end(state.processes[n], known[n].stop, 15), running))
            for name in running:
                _clear(known[name])
                say(f"{known[name].title:9}stopped")
        state.processes.clear()
        state.save()


def _clear(server: Server) -> None:
    for path in server.leftovers:
        try:
            path.unlink(missing_ok=True)
        except PermissionError as error:
            raise ServiceError(f"{server.title} needs {path}, which another user has left; remove it") from error


def _reason_for_silence(server: Server) -> str | None:
    try:
        server.check()
    except Exception as error:  # of four libraries; whether it is the server's fault shows in its log
        return str(error).strip().partition("\n")[0] or type(error).__name__
    return None
