from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

    from infra.services import Services
    from tests.shared.works import Works


@pytest.fixture(scope="session")
def works(services: "Services", tmp_path_factory: pytest.TempPathFactory) -> Iterator["Works"]:
    """Deployments and one worker for all tests of them; who kills the worker need not start it again."""
    from tests.shared.works import works as running_works

    with running_works(services, tmp_path_factory.mktemp("works")) as made:
        yield made


@pytest.fixture
def client(works: "Works", monkeypatch: pytest.MonkeyPatch) -> Iterator["SyncPrefectClient"]:
    """Of the session's servers, which MLflow's client uses as well."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    environment = works.services.environment()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = {PREFECT_API_URL: environment["PREFECT_API_URL"]}
    settings[PREFECT_API_AUTH_STRING] = environment["PREFECT_API_AUTH_STRING"]
    with temporary_settings(settings), get_client(sync_client=True) as found:
        yield found
