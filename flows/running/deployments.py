"""Start a deployment through the Prefect API, and wait for its run; what is missing is reported in one line."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, WorkerStatus
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL
from prefect.states import Scheduled
from prefect.utilities.urls import url_for

from gearnn.errors import ServerError

Say = Callable[[str], object]
_REMIND_S = 60.0


@contextmanager
def prefect_api() -> Iterator[SyncPrefectClient]:
    """A client of the server that ``PREFECT_API_URL`` names; none is started.

    Raises:
        ServerError: no server is named, it does not answer, or it refuses.
    """
    address = PREFECT_API_URL.value()
    if not address:
        raise ServerError(
            "expected PREFECT_API_URL to name a Prefect server, but it is not set; after `make services`: "
            "source .gearnn/services/env"
        )
    try:
        with get_client(sync_client=True) as client:
            yield client
    except httpx.TransportError as error:
        reason = str(error) or type(error).__name__
        raise ServerError(f"Prefect at {address}: expected it to answer, but got: {reason}") from error
    except PrefectHTTPStatusError as error:
        code = error.response.status_code
        hint = "; see PREFECT_API_AUTH_STRING" if code in (401, 403) else f": {error.response.text[:200]}"
        raise ServerError(f"Prefect at {address}: expected an answer, but got status {code}{hint}") from error


def find(client: SyncPrefectClient, name: str, warn: Say) -> DeploymentResponse:
    """The deployment of this name, with its work pool.

    Args:
        client: of the server.
        name: flow and deployment, such as ``adapt/gpu``.
        warn: what to do with a line that says why a run would wait.

    Raises:
        ServerError: there is no such deployment, or its work pool is gone.
    """
    try:
        deployment = client.read_deployment_by_name(name)
    except ObjectNotFound:
        raise ServerError(f"deployment {name}: expected it on this server; `make deploy` puts it there") from None
    pool = deployment.work_pool_name
    try:
        if pool is None:
            raise ServerError(f"deployment {name}: its work pool was deleted; `make deploy` makes it anew")
        workers = client.read_workers_for_work_pool(pool)
    except ObjectNotFound:
        raise ServerError(f"work pool {pool}: expected it on this server; `make deploy` makes it") from None
    if not any(worker.status == WorkerStatus.ONLINE for worker in workers):
        warn(f"no worker of the work pool {pool} is online; the run waits for `prefect worker start --pool {pool}`")
    return deployment


def start(
    client: SyncPrefectClient,
    deployment: DeploymentResponse,
    parameters: Mapping[str, Any],
    *,
    tags: Sequence[str] = (),
    key: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> FlowRun:
    """Create a run of a deployment; of those with one key only the first.

    Args:
        client: of the server.
        deployment: what to run.
        parameters: of the flow, as JSON values.
        tags: of the run, besides the deployment's.
        key: idempotency key.
        environment: variables of the run's process, besides the deployment's.

    Raises:
        ServerError: the parameters do not fit the flow.
    """
    try:
        return client.create_flow_run_from_deployment(
            deployment.id,
            parameters=dict(parameters),
            tags=tags,
            idempotency_key=key,
            state=Scheduled(),
            job_variables={"env": dict(environment)} if environment else None,
        )
    except PrefectHTTPStatusError as error:
        if error.response.status_code not in (409, 422):
            raise
        reason = " ".join(error.response.text.split())[:300]
        raise ServerError(f"deployment {deployment.name}: its parameters do not fit: {reason}") from error


def start_again(client: SyncPrefectClient, run: FlowRun) -> FlowRun:
    """Schedule a run that has ended; it keeps its id, and does what is not stored yet."""
    client.set_flow_run_state(run.id, Scheduled(message="started again"), force=True)
    return client.read_flow_run(run.id)


def wait(client: SyncPrefectClient, run: FlowRun, limit_s: float, say: Say, poll_s: float = 2.0) -> FlowRun:
    """Watch a run until it ends or the time is over; reports every change of state, and every minute that it goes on.

    Returns:
        The run as it is then; its state says which of both.
    """
    began, told_at, told = time.monotonic(), 0.0, ""
    while True:
        run = client.read_flow_run(run.id)
        passed, name = time.monotonic() - began, (run.state.name if run.state else None) or "unknown"
        if name != told or passed - told_at >= _REMIND_S:
            say(f"{run.name}: {name}" + (f", after {passed:.0f} s" if told else ""))
            told, told_at = name, passed
        if (run.state and run.state.is_final()) or passed >= limit_s:
            return run
        time.sleep(min(poll_s, max(limit_s - passed, 0.1)))


def link(run: FlowRun) -> str:
    """The page of a run in Prefect's UI."""
    return url_for(run) or f"flow run {run.id}"


def has_succeeded(run: FlowRun) -> bool:
    """Whether a run is over and well."""
    return run.state is not None and run.state.is_completed()


def reason(run: FlowRun) -> str:
    """What a run says about its state, in one line."""
    message = " ".join(((run.state and run.state.message) or "").split())
    return f"{run.state.name if run.state else 'unknown'}{': ' + message if message else ''}"
