"""Dask and Ray: clusters that a plan names by address, or that are started here for one run."""

import hashlib
import importlib
import os
import signal
import socket
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from prefect.task_runners import TaskRunner

import gearnn
from gearnn.errors import PlanError

_SECONDS_TO_ANSWER = 5.0
_SECONDS_FOR_WORKERS = 20.0


def dask(address: str, number: int, stack: ExitStack) -> TaskRunner[Any]:
    """Steps on Dask: a scheduler's workers, or worker processes of this machine that end with the run.

    Args:
        address: ``host:port`` of a scheduler; empty starts one here.
        number: of worker processes, where they are started here.
        stack: ends it all.

    Raises:
        PlanError: no Dask installed; nobody answers; no workers, or such that run other code than this process.
    """
    runners = _package("prefect_dask.task_runners", "dask")
    if address:
        _reach("dask", address, "start one with `dask scheduler`, or check the address")
        cluster = runners.DaskTaskRunner(address=f"tcp://{address}")
    else:
        here = {"n_workers": number, "threads_per_worker": 1, "dashboard_address": None, "memory_limit": 0}
        cluster = runners.DaskTaskRunner(cluster_kwargs=here)
    runner: TaskRunner[Any] = stack.enter_context(cluster)
    _check_workers(cluster.client, address)
    return runner


def ray(address: str, number: int, stack: ExitStack) -> TaskRunner[Any]:
    """Steps on Ray: a cluster's, or that of this machine, which ends with the run.

    Args:
        address: ``host:port`` of Ray's client server; empty starts a cluster here.
        number: of steps at a time, where it is started here.
        stack: ends it all.

    Raises:
        PlanError: no Ray installed, or nobody answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # steps lease GPUs by themselves
    runners = _package("prefect_ray.task_runners", "ray")
    if address:
        _reach("ray", address, "start one with `ray start --head`, or check the address")
        cluster = runners.RayTaskRunner(address=f"ray://{address}")
    else:
        here = {"num_cpus": number, "include_dashboard": False, "logging_level": "WARNING"}
        cluster = runners.RayTaskRunner(init_kwargs=here)
    terminated = signal.getsignal(signal.SIGTERM)
    try:
        runner: TaskRunner[Any] = stack.enter_context(cluster)
    except ConnectionError as error:
        raise PlanError(f"plan: runner: {address} answers, but not as Ray's client server: {error}") from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)
        stack.callback(signal.signal, signal.SIGTERM, terminated or signal.SIG_DFL)
    return runner


def _interrupt(number: int, frame: object) -> None:
    """End the flow: Ray's own handler aborts the process, and its waiting lets nothing else through than this."""
    raise KeyboardInterrupt


def about() -> dict[str, str]:
    """What must be the same in every process of a run: the version of Python, and the code of GearNN."""
    root = Path(gearnn.__file__).parents[1]
    digest = hashlib.sha256()
    for package in ("gearnn", "tasks"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.read_bytes())
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {"python": python, "gearnn": gearnn.__version__, "code": digest.hexdigest()[:12]}


def _check_workers(client: Any, address: str) -> None:
    import distributed

    where = f"the Dask scheduler at {address}" if address else "Dask"
    try:
        client.wait_for_workers(1, timeout=_SECONDS_FOR_WORKERS)
    except distributed.TimeoutError:
        start = f"; start some with `dask worker {address} --nthreads 1`" if address else ""
        raise PlanError(f"plan: runner: {where} has no workers{start}") from None
    if not address:
        return
    own = about()
    for worker, found in client.run(about, on_error="return").items():
        if found != own:
            told = ", ".join(f"{k} {v}" for k, v in found.items()) if isinstance(found, dict) else repr(found)
            raise PlanError(
                f"plan: runner: expected workers that run {', '.join(f'{k} {v}' for k, v in own.items())} as this "
                f"process does, but {worker} of {where} has {told}; start it again from the same environment"
            )


def _package(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise PlanError(
            f"plan: runner: {extra} is not installed ({error.name}); pip install 'gearnn[{extra}]'"
        ) from None


def _reach(kind: str, address: str, advice: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS_TO_ANSWER) as connection:
            if kind == "dask" and not connection.recv(1):  # a scheduler speaks first; its client waits for ever
                raise ConnectionResetError("hung up")
    except (OSError, OverflowError) as error:
        raise PlanError(f"plan: runner: no {kind.title()} answers at {kind}://{address} ({error}); {advice}") from None
