"""Prefect's API, asked a few plain questions, each with a limit of some seconds."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from prefect import __version__ as own_version
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_KEY,
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)

from gearnn.errors import ServerError
from gearnn.registry.servers import check_version, one_line, series
from gearnn.store.addresses import shown

AT_LEAST = "3.8"
"""The oldest Prefect server, as for its client in pyproject.toml; Prefect itself asks for the same major version."""

_SECONDS_TO_ANSWER = 5.0


def address() -> str | None:
    """The API that is set; None where a temporary server is started for each run."""
    found: str | None = PREFECT_API_URL.value()
    return found


@contextmanager
def asking() -> Iterator[SyncPrefectClient]:
    """A client that does not wait for long.

    Raises:
        ServerError: the API does not answer, or does not let us in.
    """
    what = f"Prefect at {shown(address() or '')}"
    with temporary_settings(updates={PREFECT_CLIENT_MAX_RETRIES: 0}):
        client = get_client(sync_client=True, httpx_settings={"timeout": _SECONDS_TO_ANSWER})
        try:
            yield client
        except PrefectHTTPStatusError as error:
            raise ServerError(f"{what}: {_refusal(error.response.status_code)}") from error
        except (OSError, ValueError, httpx.HTTPError) as error:
            told = f"{what}: expected it to answer, but got: {one_line(error)}"
            raise ServerError(f"{told}; check PREFECT_API_URL and whether the server runs") from error
        finally:
            client._client.close()  # entering the client itself would ask for the version in Prefect's own way


def check_prefect() -> str:
    """Make sure that the API answers, lets us in, and is neither too old nor of another major version.

    Returns:
        Its version; empty where no API is set.

    Raises:
        ServerError: it does not, in one line with what to do.
    """
    if address() is None:
        return ""
    with asking() as client:
        found = str(client.api_version())
    what = f"Prefect at {shown(address() or '')}"
    check_version(what, found, AT_LEAST)
    if series(found)[0] != series(own_version)[0]:
        raise ServerError(f"{what}: expected major version {series(own_version)[0]} as here, but got {found}")
    return found


def listed(client: SyncPrefectClient, path: str, **body: Any) -> list[dict[str, Any]]:
    """What the API lists under a path; ``work_pools``, say."""
    found: list[dict[str, Any]] = client._client.post(f"/{path}/filter", json=body).json()
    return found


def _refusal(status: int) -> str:
    if status in (401, 403):
        name = "PREFECT_API_KEY" if PREFECT_API_KEY.value() else "PREFECT_API_AUTH_STRING"
        given = PREFECT_API_KEY.value() or PREFECT_API_AUTH_STRING.value()
        todo = f"{name} is wrong" if given else f"set {name}"
        return f"expected to be let in, but got {status}; {todo}"
    return f"expected it to answer, but got status {status}; check PREFECT_API_URL, which ends in /api"
