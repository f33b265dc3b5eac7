"""What is asked of servers before anything is done with them: do they answer, let us in, know enough, and store.

Every request here has a limit of some seconds. Passwords in addresses are never shown.
"""

import os
import re
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gearnn.errors import ServerError
from gearnn.registry import runs
from gearnn.store.addresses import shown

MLFLOW_AT_LEAST = "3.17"
"""The oldest MLflow server, as for its client in pyproject.toml."""

_SECONDS_TO_ANSWER = 5
_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
_PROBE, _CHECKED = "gearnn-doctor", "gearnn.checked"
_LOGIN = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")


def check_version(what: str, found: str, at_least: str) -> None:
    """Compare versions by their first two numbers.

    Raises:
        ServerError: the server is too old.

    >>> check_version("MLflow", "3.17.2", "3.17")
    >>> check_version("MLflow", "2.22.0", "3.17")
    Traceback (most recent call last):
    gearnn.errors.ServerError: MLflow: expected at least version 3.17, but got 2.22.0; upgrade the server
    """
    if series(found) < series(at_least):
        raise ServerError(f"{what}: expected at least version {at_least}, but got {found}; upgrade the server")


def series(version: str) -> tuple[int, int]:
    """The first two numbers of a version; zeros where there are none.

    >>> series("3.8.8+2.gabc")
    (3, 8)
    """
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def one_line(error: BaseException, longest: int = 200) -> str:
    """What an error says, without its line breaks, and without the passwords of addresses."""
    text = re.sub(r"(://)[^/\s@]+@", r"\1", " ".join(str(error).split()))
    return text[:longest] or type(error).__name__


def check_mlflow(*, retries: int = 3) -> str:
    """Make sure that the tracking server answers, lets us in and is new enough; without one, that its file opens.

    Args:
        retries: of a request that fails, with growing pauses; ``MLFLOW_HTTP_REQUEST_MAX_RETRIES`` goes before.

    Returns:
        Its version; empty where there is no server.

    Raises:
        ServerError: it does not, in one line with what to do.
    """
    uri = runs.tracking_uri()
    what = f"MLflow at {shown(uri)}"
    with _asking(what, retries):
        runs.client()
        version = _version(uri, int(os.environ[_RETRIES])) if uri.startswith("http") else ""
        if version:
            check_version(what, version, MLFLOW_AT_LEAST)
        runs.client().search_experiments(max_results=1)
    return version


def check_writable(name: str, *, retries: int = 3) -> None:
    """Make sure that runs and versions of a registered base can be written, before anything is trained for them.

    The experiment is made where there is none, and it and the registered model, where it exists, get a tag.

    Raises:
        ServerError: the user may not.
    """
    client, now = runs.client(), str(int(time.time()))
    what = f"MLflow at {shown(runs.tracking_uri())}, writing to the experiment and the registered model {name}"
    with _asking(what, retries):
        client.set_experiment_tag(runs.experiment_id(name), _CHECKED, now)
        if client.search_registered_models(f"name = '{name}'"):
            client.set_registered_model_tag(name, _CHECKED, now)


def probe_mlflow(*, retries: int = 0) -> None:
    """Write to the tracking server, and through it to where artifacts go; read both back, and remove the artifact.

    One run of one experiment, ``gearnn-doctor``, is written to each time, so that nothing gathers.

    Raises:
        ServerError: something of it does not work; says what.
    """
    value, client = secrets.token_hex(4), runs.client()
    what = f"MLflow at {shown(runs.tracking_uri())}"
    with _asking(f"{what}, writing a run", retries):
        experiment = runs.experiment_id(_PROBE)
        found = client.search_runs([experiment], max_results=1)
        run = found[0] if found else client.create_run(experiment, run_name="probe")
        client.set_tag(run.info.run_id, "probe", value)
    with _asking(f"{what}, writing an artifact", retries), tempfile.TemporaryDirectory() as folder:
        from mlflow.artifacts import download_artifacts
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        path = Path(folder) / f"{value}.txt"
        path.write_text(value)
        client.log_artifact(run.info.run_id, str(path))
        uri = f"{run.info.artifact_uri}/{path.name}"
        read = Path(download_artifacts(artifact_uri=uri, dst_path=str(Path(folder) / "back"))).read_text()
        if read != value:
            raise ServerError(f"{what}: expected to read the artifact that was written, but got {read[:40]!r}")
        get_artifact_repository(run.info.artifact_uri).delete_artifacts(path.name)  # type: ignore[no-untyped-call]


def _version(uri: str, retries: int) -> str:
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    login = get_default_host_creds(uri)  # type: ignore[no-untyped-call]
    limits = {"timeout": _SECONDS_TO_ANSWER, "max_retries": retries}
    answer = http_request(login, "/version", "GET", **limits)  # type: ignore[no-untyped-call]
    if answer.status_code in (401, 403):
        raise ServerError(f"MLflow at {shown(uri)}: {_refusal(answer.status_code)}")
    if answer.status_code != 200:
        told = f"MLflow at {shown(uri)}: expected its version, but got status {answer.status_code}"
        raise ServerError(f"{told}; check MLFLOW_TRACKING_URI, and whether that is MLflow {MLFLOW_AT_LEAST} or newer")
    return str(answer.text).strip()


@contextmanager
def _asking(what: str, retries: int) -> Iterator[None]:
    """Some seconds for a server that does not answer, and what is wrong in one line."""
    own = {_RETRIES: str(retries), "MLFLOW_HTTP_REQUEST_TIMEOUT": str(_SECONDS_TO_ANSWER * (1 + retries))}
    added = {name: value for name, value in own.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    except ServerError:
        raise
    except Exception as error:  # of MLflow, requests, SQLAlchemy
        status = getattr(error, "get_http_status_code", lambda: 0)()
        if status in (401, 403):
            raise ServerError(f"{what}: {_refusal(status)}") from error
        raise ServerError(f"{what}: expected it to answer, but got: {_reason(error)}{_todo(error)}") from error
    finally:
        for name in added:
            os.environ.pop(name, None)


def _reason(error: Exception) -> str:
    """What the system said, which requests wraps in its own words; else all of it."""
    found = re.search(r"\[Errno -?\d+\] [\w ]+|timed out", str(error))
    return found[0] if found else one_line(error)


def _todo(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name == "psycopg2":
        return "; pip install 'gearnn[services]'"
    is_server = runs.tracking_uri().startswith("http")
    return "; check MLFLOW_TRACKING_URI and whether the server runs" if is_server else ""


def _refusal(status: int) -> str:
    if status == 403:
        return f"expected to be allowed to, but got 403; the user of {_LOGIN[0]} may not do this"
    names = " and ".join(_LOGIN)
    todo = f"one of {names} is wrong" if all(map(os.environ.get, _LOGIN)) else f"set {names}"
    return f"expected to be let in, but got 401; {todo}"
