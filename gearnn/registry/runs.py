"""MLflow runs: one parent a plan, one nested run a level, with parameters, curves and scores.

Runs are written through the client with explicit run ids, because MLflow's active run belongs to a
thread, and levels run in threads. Without a server everything lands in a sqlite file and a folder.
"""

import hashlib
import json
import os
import shlex
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from gearnn.registry.names import TAG_BENCHMARK, TAG_IDENTITY, TAG_LEVEL, TAG_PLAN, TAG_SOLUTION
from gearnn.store.addresses import shown
from gearnn.store.files import home, telling_of_disks

if TYPE_CHECKING:
    from mlflow import MlflowClient


_embedded: str | None = None
"""mlflow.set_tracking_uri also writes the environment variable; this distinguishes it from the user's."""
_used: str | None = None
"""Where the parts of MLflow point that know no client."""


def tracking_uri() -> str:
    """Where runs and versions go: ``MLFLOW_TRACKING_URI``, else a sqlite file in :func:`home`."""
    return _server() or f"sqlite:///{home()}/mlflow.db"


def client() -> "MlflowClient":
    """A client of the tracking server and the registry; nothing is reported to anybody else.

    Ask for it before importing anything else of mlflow, which reads its settings when it is imported.
    """
    uri = tracking_uri()
    found = _client(uri)
    if uri != _used:
        _use(uri)
    return found


def shown_uri() -> str:
    """The same for people: without the user and password that it may hold."""
    return shown(tracking_uri())


def embed_artifacts() -> str | None:
    """Where artifacts go without a server; with one, the server decides."""
    return None if _server() else (home() / "mlflow-artifacts").as_uri()


def ui_command() -> str:
    """The command that opens the MLflow UI on these runs."""
    if tracking_uri().startswith("http"):
        return f"open {shown_uri()} in a browser"
    return f"mlflow ui --backend-store-uri {shlex.quote(shown_uri())}"


@contextmanager
def taking_turns(name: str) -> Iterator[None]:
    """Let one thread of one process of this machine at a time into what concerns one name on this server."""
    digest = hashlib.sha256(f"{tracking_uri()} {name}".encode()).hexdigest()
    path = home() / "locks" / f"{digest[:16]}.lock"
    with telling_of_disks(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path, thread_local=False):
        yield


def experiment_id(name: str) -> str:
    """The experiment of a base, made when it does not exist."""
    server = client()
    from mlflow.exceptions import MlflowException

    found = server.get_experiment_by_name(name)
    if found is None:
        try:
            return str(server.create_experiment(name, artifact_location=embed_artifacts()))
        except MlflowException:  # another process was first
            found = server.get_experiment_by_name(name)
    assert found is not None
    return str(found.experiment_id)


def plan_run(experiment: str, plan_digest: str, params: Mapping[str, str]) -> str:
    """The parent run of a plan: one a plan, however often it is started; its id."""
    run_id, is_new = _run_of(experiment, {TAG_PLAN: plan_digest, TAG_LEVEL: "all"}, f"adapt {plan_digest[:8]}")
    if is_new:
        log(run_id, params=params)
        finish(run_id)
    return run_id


def benchmark_run(experiment: str, digest: str, params: Mapping[str, str]) -> str:
    """The run of a benchmark: one a digest, however often it is started; its id. Finish it with :func:`finish`."""
    run_id, is_new = _run_of(experiment, {TAG_BENCHMARK: digest, TAG_LEVEL: "all"}, f"benchmark {digest[:8]}")
    if is_new:
        log(run_id, params=params)
    return run_id


def solution_run(
    experiment: str, parent: str, digest: str, solution: str, setting: str, seed: int, metrics: Mapping[str, float]
) -> str:
    """A nested run with the figures of one solution and seed of a benchmark; its id. Repeated, it is the same run."""
    identity = hashlib.sha256(json.dumps([solution, setting, seed]).encode()).hexdigest()
    tags = {TAG_BENCHMARK: digest, TAG_SOLUTION: identity}
    name = f"{solution} {setting}".strip() + f", seed {seed}"
    run_id, is_new = _run_of(experiment, tags, name, parent)
    params = {"solution": solution, "setting": setting, "seed": str(seed)} if is_new else {}
    log(run_id, params=params, metrics=metrics)
    finish(run_id)
    return run_id


def level_run(
    experiment: str, parent: str, level: str, identity: str, tags: Mapping[str, str] | None = None
) -> tuple[str, bool]:
    """A nested run for one level. Finish it with :func:`finish`.

    Args:
        experiment: its id.
        parent: id of the plan's run.
        level: q, the run's name.
        identity: of the version that it is made for; repeated, it is the same run.
        tags: further ones.

    Returns:
        Its id, and whether it is new.
    """
    key = {TAG_IDENTITY: identity, TAG_LEVEL: level}
    return _run_of(experiment, key, level, parent, tags)


def _run_of(
    experiment: str,
    key: Mapping[str, str],
    name: str,
    parent: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> tuple[str, bool]:
    """The run with the tags of ``key``, made when there is none, and whether it is new."""
    with taking_turns(f"run {experiment} {sorted(key.items())}"):
        found = client().search_runs([experiment], " and ".join(f"tags.`{k}` = '{v}'" for k, v in key.items()))
        if found:
            return str(found[0].info.run_id), False
        nested = {"mlflow.parentRunId": parent} if parent else {}
        run = client().create_run(experiment, tags={**(tags or {}), **key, **nested}, run_name=name)
        return str(run.info.run_id), True


def log(
    run_id: str,
    *,
    params: Mapping[str, object] | None = None,
    metrics: Mapping[str, float] | None = None,
    curves: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Add to a run; what it holds already is left as it is, so that an interrupted call can be repeated.

    Args:
        run_id: the run.
        params: name -> value, kept as text.
        metrics: name -> figure.
        curves: name -> one figure an epoch, from epoch 1 on.
    """
    from mlflow.entities import Metric, Param

    known = client().get_run(run_id).data.metrics if metrics or curves else {}
    now = int(time.time() * 1000)
    entries = [Metric(name, value, now, 0) for name, value in (metrics or {}).items() if known.get(name) != value]
    for name, values in (curves or {}).items():
        if name in known:  # one request writes all of a curve
            continue
        entries += [Metric(name, value, now, epoch) for epoch, value in enumerate(values, start=1)]
    client().log_batch(run_id, metrics=entries, params=[Param(k, str(v)) for k, v in (params or {}).items()])


def log_file(run_id: str, path: Path, folder: str) -> None:
    """Add a file to a run."""
    client().log_artifact(run_id, str(path), folder)


def finish(run_id: str, *, failed: bool = False) -> None:
    """Mark a run as done."""
    client().set_terminated(run_id, "FAILED" if failed else "FINISHED")


def _server() -> str | None:
    """The tracking URI that the user set, or None."""
    given = os.environ.get("MLFLOW_TRACKING_URI")
    return given if given and given != _embedded else None


@cache
def _client(uri: str) -> "MlflowClient":
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    warnings.filterwarnings("ignore", message=".*An input example was not provided")  # the signature is given
    import mlflow

    if not uri.startswith("http"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


def _use(uri: str) -> None:
    """Point what of MLflow knows no client, such as log_model, to the same place."""
    global _embedded, _used
    import mlflow

    _used, is_embedded = uri, _server() is None
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    if is_embedded:
        _embedded = uri
