"""Servers as processes that outlive whoever started them. Knows nothing of what they serve."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CHILDREN: dict[int, subprocess.Popen[bytes]] = {}  # those of this process, to be reaped by it


class ServiceError(RuntimeError):
    """A server cannot be started, or something that it needs is not installed; one line says which."""


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process by its number and the moment of its start, because numbers are used again."""

    pid: int
    started: str

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        if child := _CHILDREN.get(self.pid):
            if child.poll() is None:
                return True
            _CHILDREN.pop(self.pid, None)
        state, _, _, started = _stat(self.pid)
        return state not in ("", "Z") and started == self.started


def spawn(command: list[str], environment: dict[str, str], log: Path, *, user: str | None, cwd: Path) -> Process:
    """Start a command in a session of its own, with its output appended to a log.

    Args:
        command: program and arguments.
        environment: its whole environment.
        log: created for the owner's eyes only.
        user: whom to run it as, which only root may say; None for the current user.
        cwd: where it runs.
    """
    other: dict[str, Any] = {"user": user, "group": user, "extra_groups": []} if user else {}
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        child = subprocess.Popen(
            command,
            env=environment,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,
            **other,
        )
    finally:
        os.close(descriptor)
    _CHILDREN[child.pid] = child
    return Process(pid=child.pid, started=_stat(child.pid)[3])


def end(process: Process, first: signal.Signals, patience_s: float) -> None:
    """Signal a process, and after some seconds kill it with all that it started and that is left of it.

    Args:
        process: the leader of a session; it may be dead already.
        first: what its leader gets at once.
        patience_s: seconds until everything gets SIGKILL.
    """
    members = _members(process)
    if process.alive:
        with suppress(ProcessLookupError):
            os.kill(process.pid, first)
    _wait_for_the_end_of([process], patience_s)
    members |= _members(process)
    for member in members:
        if member.alive:
            with suppress(ProcessLookupError):
                os.kill(member.pid, signal.SIGKILL)
    _wait_for_the_end_of(members, 30)


def _wait_for_the_end_of(processes: Iterable[Process], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(p.alive for p in processes) and time.monotonic() < deadline:
        time.sleep(0.05)


def _members(leader: Process) -> set[Process]:
    """The leader, its descendants, and what is left of its session when it is gone."""
    if not Path("/proc/self/stat").exists() or (_stat(leader.pid)[0] and not leader.alive and not _zombie(leader.pid)):
        return {leader}
    stats = {int(p.name): _stat(int(p.name)) for p in Path("/proc").iterdir() if p.name.isdigit()}
    found = {pid for pid, (_, _, session, _) in stats.items() if session == leader.pid}
    while more := {pid for pid, (_, parent, _, _) in stats.items() if parent in found} - found:
        found |= more
    return {Process(pid=pid, started=stats[pid][3]) for pid in found} | {leader}


def _zombie(pid: int) -> bool:
    return _stat(pid)[0] == "Z"


def _stat(pid: int) -> tuple[str, int, int, str]:
    """State, parent, session and start of a process; an empty state for one that does not exist."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ("", 0, 0, "") if Path("/proc/self/stat").exists() else _stat_without_proc(pid)
    return fields[0], int(fields[1]), int(fields[3]), fields[19]


def _stat_without_proc(pid: int) -> tuple[str, int, int, str]:
    answer = subprocess.run(["ps", "-o", "state=,ppid=,lstart=", "-p", str(pid)], capture_output=True, text=True)
    state, parent, started = (*answer.stdout.split(maxsplit=2), "", "", "")[:3]
    return state[:1], int(parent or 0), pid, started


def taken_ports(ports: Iterable[int], patience_s: float = 0.0) -> list[int]:
    """Those of these ports of the loopback where a server could not listen, after some seconds of waiting."""
    deadline = time.monotonic() + patience_s
    while taken := [port for port in ports if not _is_free(port)]:
        if time.monotonic() >= deadline:
            break
        time.sleep(0.1)
    return taken


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_ports(number: int) -> list[int]:
    """Ports whose successors by 10,000 are free as well, because SeaweedFS takes those for gRPC."""
    found: list[int] = []
    while len(found) < number:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            if port > 55_000 or port in found:
                continue
            try:
                other.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            found.append(port)
    return found
