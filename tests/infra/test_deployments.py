"""Deployments and a worker on real servers: as docs/servers.md says, and to the end."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.events.schemas.automations import AutomationCore
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Pending
from typer.testing import CliRunner

from flows.cli.app import app
from flows.running import deployments
from gearnn import registry
from gearnn.errors import ServerError
from gearnn.plan import Plan
from infra.ci.changes import Request
from infra.ci.summary import what_came
from infra.deploy import AUTOMATIONS, read_automations
from tests.shared.works import BASE, LEVELS, Works, plan, until

DEPLOYED = {"adapt/gpu", "adapt-level/gpu", "benchmark/gpu", "train-base/gpu", "retrain/gpu"}
pytestmark = pytest.mark.filterwarnings("ignore")  # of Prefect and MLflow


def deployed(client: SyncPrefectClient) -> dict[str, Any]:
    """All that `make deploy` has put on the server."""
    flows = {flow.id: flow.name for flow in client.read_flows()}
    found: dict[str, Any] = {
        f"{flows[d.flow_id]}/{d.name}": (
            d.id,
            d.parameters,
            d.work_pool_name,
            d.job_variables,
            d.concurrency_options,
            [(s.slug, s.schedule.cron, s.schedule.timezone, s.active) for s in d.schedules],  # type: ignore[union-attr]
        )
        for d in client.read_deployments()
    }
    found["automations"] = sorted(automation.name for automation in client.read_automations())
    return found


@pytest.mark.service
def test_deploying_twice_changes_nothing(works: Works, client: SyncPrefectClient) -> None:
    once = deployed(client)
    assert set(once) == DEPLOYED | {"automations"}
    assert once["retrain/gpu"][5] == [("nightly", "0 2 * * *", "UTC", True)]
    assert once["automations"] == ["gearnn retrain on a new distortion", read_automations(AUTOMATIONS)[0].name]
    said = works.run(sys.executable, "-m", "infra.deploy")
    assert "work pool gpu: is there, of type process" in said
    assert f"automation '{read_automations(AUTOMATIONS)[0].name}': is there" in said
    assert deployed(client) == once
    assert "work pool gpu: created, of type process" in works.log[0]


@pytest.mark.service
def test_the_nightly_retraining_is_scheduled(client: SyncPrefectClient) -> None:
    until(lambda: [run for run in client.read_flow_runs() if run.auto_scheduled], seconds=20)


@pytest.mark.service
def test_the_form_of_adapt_has_the_fields_of_a_plan(client: SyncPrefectClient) -> None:
    schema = client.read_deployment_by_name("adapt/gpu").parameter_openapi_schema
    assert schema["required"] == ["plan"]
    form = schema["definitions"]["Plan"]
    assert set(form["properties"]) == set(Plan.model_fields)
    assert {"base", "data", "levels"} <= set(form["required"])


@pytest.mark.service
def test_the_worker_of_the_docs_runs_a_plan_to_its_end(works: Works, client: SyncPrefectClient) -> None:
    *_, last = works.adapted.splitlines()
    assert last.startswith(f"adapt {BASE}: Completed, after ")
    (adaptor,) = [v for v in registry.adaptors(BASE) if v.tags["gearnn.level"] == LEVELS[0]]
    assert "champion" in adaptor.aliases
    assert registry.metrics(adaptor)


@pytest.mark.service
def test_a_deployment_that_is_missing_is_told_in_one_line(client: SyncPrefectClient) -> None:
    with pytest.raises(ServerError, match=r"^deployment adapt/tpu: expected it on this server; `make deploy` puts it"):
        deployments.find(client, "adapt/tpu", warn=print)


@pytest.mark.service
def test_a_run_without_a_heartbeat_crashes_and_gives_its_slot_back(works: Works, client: SyncPrefectClient) -> None:
    works.start_worker()
    deployment = client.read_deployment_by_name("benchmark/gpu")  # one run at a time
    run = deployments.start(client, deployment, {"plan": plan(["jpeg:quality=7"]) | {"seed": 7}})
    automation = read_automations(AUTOMATIONS)[0].model_dump()
    automation["trigger"] |= {"within": 10, "match": {"prefect.resource.id": f"prefect.flow-run.{run.id}"}}
    watching = client.create_automation(AutomationCore.model_validate(automation | {"name": "ops: impatient"}))
    try:
        until(lambda: state_of(client, run) == "Running")
        works.end_worker(killed=True)
        second = deployments.start(client, deployment, run.parameters)
        client.set_flow_run_state(second.id, Pending())
        assert state_of(client, second) == "AwaitingConcurrencySlot"
        until(lambda: state_of(client, run) == "Crashed")
        client.set_flow_run_state(second.id, Pending())
        assert state_of(client, second) == "Pending"
    finally:
        client.delete_automation(watching)
    told = what_came(client, client.read_flow_run(run.id), Request(plans=("p",), levels=("a",)))
    assert "for `p`: Crashed: Its process gave no heartbeat for 150 s; start it again" in told[0]
    assert "Nothing was registered." in told
    assert deployments.start_again(client, run).id == run.id
    assert state_of(client, run) == "Scheduled"
    for waiting in (run, second):
        client.delete_flow_run(waiting.id)


def state_of(client: SyncPrefectClient, run: FlowRun) -> str | None:
    state = client.read_flow_run(run.id).state
    return state and state.name


def _submit(tmp_path: Path, *arguments: str) -> str:
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan(LEVELS)))
    done = CliRunner().invoke(app, ["submit", str(tmp_path / "plan.yaml"), *arguments])
    assert done.exit_code != 0
    return done.stderr


def test_submit_says_that_no_server_is_named(tmp_path: Path) -> None:
    with temporary_settings({PREFECT_API_URL: None}):
        assert _submit(tmp_path).startswith("error: expected PREFECT_API_URL to name a Prefect server, but it is not")


def test_submit_says_that_no_server_answers(tmp_path: Path) -> None:
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert _submit(tmp_path).startswith(
            "error: Prefect at http://127.0.0.1:9/api: expected it to answer, but got: "
        )


def test_submit_checks_the_plan_here(tmp_path: Path) -> None:
    assert "expected some of the plan's, jpeg:quality=5, but got jpeg:quality=6" in _submit(
        tmp_path, "--level", "jpeg:quality=6"
    )
