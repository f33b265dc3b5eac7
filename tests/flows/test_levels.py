"""`gearnn plan levels`, from a plan to the fewest adaptors."""

from pathlib import Path
from unittest.mock import patch

import pytest
import yaml
from typer.testing import CliRunner

from flows.cli.app import app
from gearnn.evaluation.solutions import PROMOTE
from gearnn.levels import PRISTINE, DistortionLevel
from gearnn.plan import Plan
from gearnn.plan.opened import Opened
from tasks.adapting.evaluate import evaluate_solution
from tests.shared.plans import tiny

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.filterwarnings("ignore")]


def test_every_adaptor_is_scored_at_every_level_and_the_fewest_are_printed(tmp_path: Path) -> None:
    levels = ["jpeg:quality=5", "jpeg:quality=20", "brightness:factor=0.3"]
    content = tiny("levels", levels, str(tmp_path / "store"))
    content["bound"]["select"] = "eq2"
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(content))
    scored = []
    original = evaluate_solution._do

    def noting(opened: Opened, base: object, data: object, level: str, solution: str, trained: object) -> object:
        score = original(opened, base, data, level, solution, trained)  # type: ignore[arg-type]
        scored.append((PRISTINE if trained is None else trained.level, level))  # type: ignore[attr-defined]
        return score

    with patch.object(evaluate_solution, "_do", noting):
        result = CliRunner().invoke(app, ["plan", "levels", str(path), "--regret", "100"])
    assert result.exit_code == 0, result.output
    jpegs = levels[:2]
    assert set(scored) == {(gear, level) for gear in jpegs for level in jpegs} | {
        (levels[2], levels[2]),
        *((PRISTINE, level) for level in levels),
    }
    assert "0 adaptors for 3 levels, each within 100 points of its own; in the plan:\nlevels: []" in result.output
    result = CliRunner().invoke(app, ["plan", "levels", str(path), "--regret", "0"])
    assert result.exit_code == 0, result.output
    line = result.output.strip().splitlines()[-1]
    found = yaml.safe_load(line)["levels"]
    served = {level: gear for level, gear, _ in (row.split() for row in result.output.splitlines() if row[:5] in
              ("jpeg:", "brigh"))}  # fmt: skip
    assert set(served) == set(levels)
    assert set(found) == set(served.values()) - {PRISTINE}
    assert PROMOTE in Plan.load(path).data.splits.model_dump()
    assert all(DistortionLevel.parse(gear).parts for gear in found)
