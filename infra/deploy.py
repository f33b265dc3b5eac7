"""``python -m infra.deploy``: the work pool, the deployments of prefect.yaml and the automations, as often as you like.

Works on the server that ``PREFECT_API_URL`` names. A second time it changes nothing: what is there under its name is
brought up to date.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound

from flows.running.deployments import prefect_api
from gearnn.errors import PlanError, ServerError
from gearnn.plan.documents import read_yaml

REPOSITORY = Path(__file__).resolve().parents[1]
AUTOMATIONS = Path(__file__).with_name("automations.yaml")
Say = Callable[[str], object]


def main(say: Say = lambda line: sys.stdout.write(f"{line}\n")) -> int:
    """Deploy everything; the exit status is that of ``prefect deploy``."""
    try:
        return _deploy(say)
    except (ServerError, PlanError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


def _deploy(say: Say) -> int:
    pools = {d["work_pool"]["name"] for d in _read(REPOSITORY / "prefect.yaml")["deployments"]}
    with prefect_api() as client:
        for pool in sorted(pools):
            say(f"work pool {pool}: {ensure_pool(client, pool)}")
    sys.stdout.flush()
    status = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"], cwd=REPOSITORY, check=False
    ).returncode
    with prefect_api() as client:
        for automation in read_automations(AUTOMATIONS):
            say(f"automation {automation.name!r}: {ensure_automation(client, automation)}")
    return status


def ensure_pool(client: SyncPrefectClient, name: str) -> str:
    """Create a work pool of processes, where there is no pool of this name; says what was done."""
    try:
        return f"is there, of type {client.read_work_pool(name).type}"
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=name, type="process"))
        return "created, of type process"


def read_automations(path: Path) -> list[AutomationCore]:
    """The automations of a file, checked."""
    return [AutomationCore.model_validate(one) for one in _read(path)["automations"]]


def _read(path: Path) -> Any:
    return read_yaml(path.read_text(), source=str(path))


def ensure_automation(client: SyncPrefectClient, wanted: AutomationCore) -> str:
    """Create an automation, or bring the one of its name up to date; says what was done."""
    found = client.read_automations_by_name(wanted.name)
    if not found:
        client.create_automation(wanted)
        return "created"
    if AutomationCore.model_validate(found[0].model_dump()) == wanted:
        return "is there"
    client.update_automation(found[0].id, wanted)
    return "brought up to date"


if __name__ == "__main__":
    sys.exit(main())
