"""What a push trains: the comparison of two commits by itself, and the workflow's step against real servers."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun

from flows.running import deployments
from gearnn import registry
from infra.ci.changes import PushError, Request, commit_before, compare
from infra.ci.summary import markdown
from tests.conftest import REPOSITORY
from tests.shared.works import BASE, LEVELS, PLAN, Works, documentation, until

WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in (REPOSITORY / ".github/workflows").glob("*.yml")}
pytestmark = pytest.mark.filterwarnings("ignore")  # of Prefect and MLflow

POSTERIZE = '''"""Fewer shades of every colour."""

from PIL import Image, ImageOps

from gearnn.distortions.kinds import Kind, Parameter


def distort(image: Image.Image, *, bits: int) -> Image.Image:
    """Keep the upper bits of every colour."""
    return ImageOps.posterize(image, bits)


KIND = Kind(
    name="posterize",
    parameters=(Parameter(name="bits", type=int, low=1, high=8, unit="bits of a colour"),),
    pristine={"bits": 8},
    distort=distort,
    distance=lambda a, b: abs(a["bits"] - b["bits"]),
    strength=lambda values: -values["bits"],
)
'''


def state(*levels: str, rest: Any = "recipe", error: str = "") -> dict[str, Any]:
    return {"levels": list(levels), "rest": rest, "error": error}


def between(old: dict[str, Any], new: dict[str, Any], kinds: tuple[str, ...] = ()) -> Any:
    return compare({"plans": old, "kinds": ["jpeg"]}, {"plans": new, "kinds": ["jpeg", *kinds]})


def test_a_new_plan_asks_for_all_of_its_levels() -> None:
    changes = between({}, {"p": state("a", "b")})
    assert changes.requests == [Request(plans=("p",), levels=("a", "b"))]
    assert changes.notes == ()


def test_a_plan_that_grows_asks_for_what_is_new() -> None:
    assert between({"p": state("a")}, {"p": state("b", "a")}).requests == [Request(plans=("p",), levels=("b",))]
    assert between({"p": state("a", "b")}, {"p": state("a")}).requests == []


def test_a_plan_that_only_moves_asks_for_nothing() -> None:
    assert between({"p": state("a")}, {"q": state("a")}).requests == []


def test_a_changed_recipe_is_left_to_the_night() -> None:
    changes = between({"p": state("a")}, {"p": state("a", rest="other")})
    assert changes.requests == []
    assert changes.notes[0].startswith("p: its recipe has changed; the levels that it had are left to the nightly run")
    assert between({"p": state("a")}, {"p": state("a", "b", rest="other")}).requests[0].levels == ("b",)


def test_a_kind_without_a_plan_trains_nothing_and_is_told() -> None:
    changes = between({"p": state("a")}, {"p": state("a")}, ("blur",))
    assert changes.requests == []
    assert changes.notes == (
        "blur: a new kind of distortion that no new level of a plan has; nothing is trained for it",
    )
    assert between({"p": state("a")}, {"p": state("a", "jpeg:quality=3+blur:sigma=2")}, ("blur",)).notes == ()


def test_a_level_is_not_asked_of_a_plan_that_had_it() -> None:
    old, new = {"p": state("a"), "q": state("b")}, {"p": state("a", "b"), "q": state("b", "c")}
    assert between(old, new).requests == [Request(plans=("p",), levels=("b",)), Request(plans=("q",), levels=("c",))]
    new["q"] = state("b")
    assert between(old, new).requests == [Request(plans=("p",), levels=("b",))]


def test_a_plan_that_is_wrong_stops_all() -> None:
    with pytest.raises(PushError, match=r"^plan p: levels is missing$"):
        between({}, {"p": state(error="plan p: levels is missing"), "q": state("a")})
    assert between({"p": state("a", error="old code")}, {"p": state("a", "b")}).requests[0].levels == ("b",)


def test_what_a_push_is_compared_with(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=A", "-c", "user.email=a@example.org", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def commit(message: str = "x") -> str:
        git("commit", "--quiet", "--allow-empty", f"--message={message}")
        return git("rev-parse", "HEAD")

    git("init", "--quiet", "--initial-branch=main")
    first, second = commit(), commit()
    git("switch", "--quiet", "--create=topic", first)
    _, third = commit("y"), commit()
    assert commit_before(tmp_path, second, third, "main") == second
    assert commit_before(tmp_path, "0" * 40, third, "main") == first  # a new branch
    assert commit_before(tmp_path, "1" * 40, third, "main") == first  # one that was rewritten
    assert commit_before(tmp_path, "0" * 40, second, "main") == f"{second}^"  # the default branch itself
    assert commit_before(tmp_path, "0" * 40, first, "main") is None
    with pytest.raises(PushError, match=r"^git cat-file"):
        commit_before(tmp_path, first, "1" * 40, "main")


def test_cells_cannot_break_the_table() -> None:
    assert markdown([{"a": "x|y\nz", "b": 1}]) == ["| a | b |", "| --- | --- |", "| x\\|y z | 1 |"]


@pytest.mark.parametrize("name", ["ci", "retrain"])
def test_a_workflow_is_what_github_expects(name: str) -> None:
    flow = WORKFLOWS[name]
    assert flow["permissions"] == {"contents": "read"}
    assert set(flow) == {"name", True, "permissions", "concurrency", "jobs"}  # YAML reads the key `on` as true
    for job in flow["jobs"].values():
        assert (
            {"runs-on", "timeout-minutes", "steps"}
            <= set(job)
            <= {*("runs-on", "timeout-minutes", "steps", "env", "strategy", "environment")}
        )
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            assert set(step) <= {"uses", "with", "name", "run", "env"}
            assert re.fullmatch(r"actions/[a-z-]+@v\d+", step.get("uses", "actions/x@v1"))


def test_every_script_of_a_workflow_is_here_and_every_secret_is_documented() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    for step in (s for flow in WORKFLOWS.values() for job in flow["jobs"].values() for s in job["steps"] if "run" in s):
        for line in step["run"].splitlines():
            program, *arguments = line.split()
            if program == "make":
                assert set(arguments) <= targets
            elif program != "sudo":
                assert os.access(REPOSITORY / program, os.X_OK), line
    secrets = set(re.findall(r"secrets\.(\w+)", (REPOSITORY / ".github/workflows/retrain.yml").read_text()))
    assert secrets == set(re.findall(r"^\| `(\w+)` \|", documentation("retraining.md"), re.MULTILINE))


def test_a_push_that_can_change_levels_starts_the_workflow() -> None:
    paths = WORKFLOWS["retrain"][True]["push"]["paths"]
    assert WORKFLOWS["retrain"][True]["push"]["branches"] == ["main"]
    for path in ("flows/plans/streets_jpeg.yaml", "gearnn/distortions/jpeg.py", "gearnn/levels.py"):
        assert (REPOSITORY / path).exists()
        assert any(Path(path).match(pattern.replace("/**", "/*")) for pattern in paths), path


def push(works: Works, before: str, after: str) -> str:
    """Push, and do what the workflow's last step does, with GitHub's expressions filled in; the job's summary."""
    works.git("push", "--quiet", "origin", "HEAD")
    (step,) = [s for s in WORKFLOWS["retrain"]["jobs"]["retrain"]["steps"] if s.get("name") == "retrain"]
    values = {
        "github.event.before || inputs.before": before,
        "github.sha": after,
        "github.event.repository.default_branch": "main",
        "github.run_attempt": "1",
        **{f"secrets.{name}": value for name, value in works.environment.items()},
    }
    filled = {name: values[text.removeprefix("${{ ").removesuffix(" }}")] for name, text in step["env"].items()}
    summary = works.folder / "summary.md"
    summary.unlink(missing_ok=True)
    runner = {"GITHUB_STEP_SUMMARY": str(summary), "PYTHON": sys.executable, "PATH": os.environ["PATH"]}
    done = subprocess.run(
        ["bash", "-ec", step["run"]], cwd=works.desk, env=filled | runner, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return summary.read_text()


def versions() -> dict[str, tuple[str, list[str]]]:
    """Level -> newest version and its aliases, of the base of these tests."""
    found = {}
    for version in reversed(registry.adaptors(BASE)):
        found[version.tags["gearnn.level"]] = (version.version, sorted(version.aliases))
    return found


def retrainings(client: SyncPrefectClient) -> list[FlowRun]:
    """Runs of the deployment, the nightly ones aside."""
    deployment = client.read_deployment_by_name("retrain/gpu")
    wanted = DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))
    return [run for run in client.read_flow_runs(deployment_filter=wanted) if not run.auto_scheduled]


@pytest.mark.service
def test_a_pushed_kind_is_trained_and_nothing_else(works: Works, client: SyncPrefectClient) -> None:
    assert works.adapted
    old, before, known = versions(), works.git("rev-parse", "main"), {run.id for run in retrainings(client)}
    works.git("switch", "--quiet", "--create=posterize", "main")
    (works.desk / "gearnn/distortions/posterize.py").write_text(POSTERIZE)
    kinds = works.desk / "gearnn/distortions/registry.py"
    kinds.write_text(kinds.read_text().replace('"jpeg", "resolution"', '"jpeg", "posterize", "resolution"', 1))
    works.write_plan([*LEVELS, "posterize:bits=2"])
    after = works.commit("a kind, and a level of it")

    summary = push(works, before, after)
    new = versions()
    assert new == old | {"posterize:bits=2": ("1", ["challenger", "champion"])}
    assert f"- `{PLAN}`: `posterize:bits=2`" in summary
    assert f"| [{BASE}.posterize-bits-2](" in summary
    (run,) = [r for r in retrainings(client) if r.id not in known]
    assert str(run.idempotency_key).startswith(f"retrain-{after}-")
    assert run.parameters["levels"] == ["posterize:bits=2"]
    assert deployments.link(run) in summary

    assert push(works, before, after) == summary  # again: the same run, and the same summary
    assert {r.id for r in retrainings(client)} == {run.id, *known}
    assert versions() == new


@pytest.mark.service
def test_an_event_trains_a_level_of_a_commit(works: Works, client: SyncPrefectClient) -> None:
    assert works.adapted
    old, known = versions(), {run.id for run in retrainings(client)}
    works.git("switch", "--quiet", "--create=event", "main")
    works.write_plan([*LEVELS, "jpeg:quality=9"])
    commit = works.commit("a level")
    works.git("push", "--quiet", "origin", "event")
    payload = {"plans": [PLAN], "levels": ["jpeg:quality=9"], "commit": commit}
    name = "gearnn.distortion.jpeg"
    works.run(
        *("prefect", "event", "emit", "gearnn.distortion.added", "--resource-id", name), "-p", json.dumps(payload)
    )
    (run,) = until(lambda: [r for r in retrainings(client) if r.id not in known])
    ended = deployments.wait(client, run, 120, print)
    assert deployments.has_succeeded(ended), deployments.reason(ended)
    assert versions() == old | {"jpeg:quality=9": ("1", ["challenger", "champion"])}
