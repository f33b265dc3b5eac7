"""Runs that are killed, or lose their servers, against real ones: nothing is lost, nothing is done twice."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml

from gearnn import registry
from gearnn.registry import runs as tracking
from gearnn.registry.names import TAG_BASE_FINGERPRINT, TAG_SHA256
from infra.services import Services
from tests.conftest import PYTHONPATH, REPOSITORY
from tests.shared.plans import tiny

pytestmark = [pytest.mark.service, pytest.mark.filterwarnings("ignore")]

SECONDS_AWAY = 6.0
LEVELS = ["jpeg:quality=5", "jpeg:quality=20"]
STEPS_OF_A_RUN = 2 * 2 + 3 * 2 * 2 + 2 * 3 + 2 * 2 * 2
"""The base, three full fine-tunes, and two adaptors have two epochs of two steps; three trials a level one step."""

KILL_POINTS = [
    # where, at which call of it, and how many steps of fine-tunes this run takes before it dies
    ("gearnn.finetune:_step", 4, 3, "in the second epoch of the base"),
    ("gearnn.store.storage:Store.remember", 1, 2, "the base is stored, its record is not"),
    ("gearnn.finetune:_step", 8, 7, "in the second epoch of the second full fine-tune"),
    ("gearnn.plan.opened:Opened.keep_network", 1, 2, "the fine-tune is over, its network is not stored"),
    ("gearnn.store.files:os.fsync", 3, None, "while a file is being written"),
    ("tasks.adapting.sensitivity:weight_change", 2, None, "between two sensitivity tables"),
    ("gearnn.finetune:_step", 2, 1, "in the second trial of layers"),
    ("gearnn.finetune:_step", 10, 9, "in the second epoch of an adaptor"),
    ("tasks.adapting.evaluate:evaluate", 6, None, "in the middle of the scores"),
    ("mlflow:MlflowClient.create_model_version", 1, 0, "the base is logged, and no version yet"),
    ("tasks.registering.register:runs.log_file", 1, 0, "the first level has a run, and no version"),
    ("gearnn.registry.registering:challenge", 1, 0, "the first adaptor has a version, and no alias"),
    ("mlflow:MlflowClient.create_model_version", 1, 0, "the second adaptor is logged, and no version yet"),
    ("gearnn.registry.promoting:set_alias", 1, 0, "the adaptors are registered, none is champion"),
    ("gearnn.registry.bundling:set_alias", 1, 0, "the gearbox is registered, and not champion"),
    ("tasks.registering.report:_publish", 1, 0, "the report is written, and not in the UI"),
]


class Runs:
    """Processes that run plans against the session's servers."""

    def __init__(self, folder: Path, services: Services) -> None:
        self.folder, self.services, self.num_outages = folder, services, 0
        environment = {**os.environ, **services.environment(), "PYTHONPATH": PYTHONPATH}
        environment |= {"GEARNN_HOME": str(folder / "home")}
        environment |= {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_LOGGING_TO_API_ENABLED": "false"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.shared.killing"],
            cwd=REPOSITORY, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert json.loads(self._line()) == "ready"

    def plan(self, name: str) -> Path:
        content = tiny(name, LEVELS, f"s3://gearnn/{name}", epochs=2) | {"workers": 1}
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    def run(self, plan: Path, events: Sequence[tuple[str, int, str]] = ()) -> tuple[int, int]:
        """Exit status, or minus the signal, and the steps that it took."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"plan": str(plan), "events": list(events)}) + "\n")
        self.process.stdin.flush()
        outages = []
        while isinstance(told := json.loads(self._line()), dict):
            outages.append(self._outage(told["what"]))
            Path(told["file"]).unlink()
        for outage in outages:
            outage.join()
        status, steps = told
        return status, steps

    def _outage(self, name: str) -> threading.Thread:
        """Kill a server now, and start it again some seconds later."""
        self.services.kill(name)
        self.num_outages += 1

        def resume() -> None:
            time.sleep(SECONDS_AWAY)
            self.services.resume(name, say=lambda line: None)

        thread = threading.Thread(target=resume)
        thread.start()
        return thread

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


@pytest.fixture(scope="module")
def runs(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    running = Runs(tmp_path_factory.mktemp("resume"), services)
    yield running
    running.process.kill()
    running.process.communicate()


@pytest.fixture(scope="module")
def unbroken(runs: Runs) -> dict[str, Any]:
    plan = runs.plan("unbroken")
    status, steps = runs.run(plan)
    assert status == 0, plan.with_suffix(".log").read_text()
    assert steps == STEPS_OF_A_RUN
    return registered("unbroken", runs)


def registered(base: str, runs: Runs) -> dict[str, Any]:
    """All that the registry holds of a base: model -> its versions with what they hold, and who is in use."""
    with patch.dict(os.environ, runs.services.environment()):
        models = [base, f"{base}.gearbox", *(f"{base}.{level.replace(':', '-').replace('=', '-')}" for level in LEVELS)]
        found = {}
        for name in models:
            entities = tracking.client().search_model_versions(f"name = '{name}'")
            versions = [registry.get_version(name, v.version) for v in entities]
            found[name.removeprefix(base)] = [
                (v.version, v.tags.get(TAG_SHA256, v.tags[TAG_BASE_FINGERPRINT]), v.aliases) for v in versions
            ]
        experiment = tracking.client().get_experiment_by_name(base)
        assert experiment is not None
        statuses = [run.info.status for run in tracking.client().search_runs([experiment.experiment_id])]
        return {"models": found, "runs": statuses}


def test_a_run_that_is_killed_anywhere_goes_on_from_there(runs: Runs, unbroken: dict[str, Any]) -> None:
    plan = runs.plan("killed")
    taken = []
    for target, at_call, steps, where in KILL_POINTS:
        status, took = runs.run(plan, [(target, at_call, "kill")])
        assert status == -signal.SIGKILL, f"{where}: {status}\n{plan.with_suffix('.log').read_text()[-3000:]}"
        assert steps is None or took == steps, f"{where}: {took} steps"
        taken.append(took)
    status, took = runs.run(plan)
    assert (status, took) == (0, 0), plan.with_suffix(".log").read_text()[-3000:]
    assert registered("killed", runs) == unbroken
    repeated = 6  # at most one step of an epoch for each of the deaths within a fine-tune
    assert STEPS_OF_A_RUN <= sum(taken) <= STEPS_OF_A_RUN + repeated


OUTAGES = [
    ("gearnn.finetune:_step", 6, "prefect"),
    ("gearnn.plan.opened:Opened.keep_network", 3, "s3"),
    ("tasks.registering.register:runs.log_file", 1, "mlflow"),
    ("tasks.registering.register:runs.log_file", 2, "postgres"),
]


def test_a_run_waits_for_each_server_that_is_killed_and_started_again(runs: Runs, unbroken: dict[str, Any]) -> None:
    plan = runs.plan("waiting")
    assert runs.run(plan, OUTAGES) == (0, STEPS_OF_A_RUN), plan.with_suffix(".log").read_text()[-3000:]
    assert runs.num_outages == len(OUTAGES)
    assert registered("waiting", runs) == unbroken
