from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import pytest
import yaml
from prefect.artifacts import Artifact
from typer.testing import CliRunner

from flows.benchmark import benchmark
from flows.cli.app import app
from gearnn.errors import DivergedError, PlanError
from gearnn.evaluation import solutions
from gearnn.evaluation.results import Results, Solution, read_results
from gearnn.finetune import finetune
from gearnn.plan import Plan
from gearnn.registry import runs
from tasks.records import Benchmarked
from tests.shared.nets import TINY_MASK_RCNN

pytestmark = [
    pytest.mark.usefixtures("prefect_server"),
    pytest.mark.filterwarnings("ignore"),  # of Prefect and MLflow
]

CONTENT: dict[str, Any] = {
    "base": {"name": "drn_d_22_quarter", "num_classes": 9, "train": {"epochs": 1, "batch_size": 4, "clip": 1.0}},
    "data": {"name": "streets", "frames": {"train": 8, "val": 4, "test": 4}, "camera": {"size": [44, 30]}},
    "levels": ["jpeg:quality=5", "resolution:scale=0.5", "jpeg:quality=100"],
    "bound": {"fraction": 0.01},
    "finetune": {"epochs": 1, "batch_size": 4, "optimizer": {"lr": 0.01}, "clip": 1.0},
    "partial": {"epochs": 1, "batch_size": 4, "optimizer": {"name": "adam", "lr": 0.01}, "clip": 1.0},
    "workers": 1,
    "benchmark": {
        "seeds": [0, 1],
        "stability": {"alpha": [1.0, 2.0], "sigma": [0.1]},
        "bounds": {"fractions": [0.005, 0.01]},
        "frequency": {"frames": 2, "whole_frames": True},
        "examples": 1,
    },
}


def plan(folder: Path, **changes: Any) -> Plan:
    return Plan.read(CONTENT | {"store": str(folder / "store")} | changes, source="test")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for the module: what a test trained the next one finds."""
    return tmp_path_factory.mktemp("benchmark")


@pytest.fixture(autouse=True)
def home(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One registry for the module, too."""
    monkeypatch.setenv("GEARNN_HOME", str(store / "home"))


@pytest.fixture(scope="module")
def done(store: Path, prefect_server: None) -> tuple[Benchmarked, pd.DataFrame]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("GEARNN_HOME", str(store / "home"))
        measured = benchmark(plan(store))
    return measured, read_results(Path(measured.table))[0]


def test_every_solution_is_measured_at_every_level_for_every_seed(done: tuple[Benchmarked, pd.DataFrame]) -> None:
    measured, table = done
    assert measured.failures == ()
    assert set(table["solution"]) == set(solutions.BENCHMARKED)
    assert set(table["status"]) == {"ok"}
    assert table["value"].between(0, 100).all()
    results = Results(table, plan(Path()).levels)
    for solution in results.solutions:
        for level in results.levels:
            expected = 1 if solution.name == solutions.BASE or level == "jpeg:quality=100" else 2
            if solution.name not in solutions.PER_LEVEL and solution.name != solutions.BASE:
                expected = 2
            if solution.name == solutions.REESTIMATED:  # no seed decides about it
                expected = 1
            assert results.cell(solution, level).num_seeds == expected, (solution, level)
    settings = {s.setting for s in results.solutions if s.name == solutions.STABILITY}
    assert settings == {"alpha=1, sigma=0.1", "alpha=2, sigma=0.1"}
    assert len(results.bounds("jpeg:quality=5")) == 2
    assert {results.cell(s, "jpeg:quality=5").num_seeds for s in results.bounds("jpeg:quality=5")} == {2}
    other = results.cell(Solution(solutions.ADAPTOR), "resolution:scale=0.5", "jpeg:quality=5")
    assert other.num_seeds == 2
    sizes = table.groupby("solution")["num_values"].max()
    assert sizes[solutions.FULL] == measured.base.num_values
    assert sizes[solutions.MIXED] == 0
    assert sizes[solutions.LAST_LAYERS] <= measured.base.num_values // 100


def test_its_files_runs_and_artifact_are_where_people_look(done: tuple[Benchmarked, pd.DataFrame]) -> None:
    measured, table = done
    folder = Path(measured.report).parent
    figures = {path.name for path in (folder / "figures").iterdir()}
    for name in ("accuracy-miou", "stability", "matrix", "bound-jpeg-quality-5", "weight-change", "frequency",
                 "frequency-whole-frame", "example-1"):  # fmt: skip
        assert {f"{name}.png", f"{name}.svg"} <= figures
    html = Path(measured.report).read_text()
    for run_id in set(table["run_id"]):
        assert run_id in html
    run = runs.client().get_run(table["run_id"].iloc[-1])
    parent = run.data.tags["mlflow.parentRunId"]
    logged = {file.path for file in runs.client().list_artifacts(parent, "benchmark")}
    assert {"benchmark/report.html", "benchmark/results.parquet"} <= logged
    own = table[(table["solution"] == solutions.MIXED) & (table["seed"] == 1) & (table["split"] == "test")]
    found = runs.client().get_run(own["run_id"].iloc[0]).data.metrics
    for row in own.itertuples():
        level = str(row.level_tested).replace(":", "-").replace("=", "-").replace("0.5", "0p5")
        assert found[f"test/{level}/{row.metric}"] == pytest.approx(row.value)
    artifact = Artifact.get(key="benchmark-drn-d-22-quarter-streets")
    assert artifact is not None
    assert "report.html" in str(artifact.data)


def test_a_repeated_benchmark_trains_nothing_and_gives_the_same_table(
    store: Path, done: tuple[Benchmarked, pd.DataFrame]
) -> None:
    with patch("tasks.adapting.finetune.finetune") as full, patch("tasks.benchmarking.baselines.finetune") as single:
        again = benchmark(plan(store))
    assert full.call_count == single.call_count == 0
    table = read_results(Path(again.table))[0]
    pd.testing.assert_frame_equal(table, done[1])
    found = runs.client().search_runs([runs.experiment_id("drn_d_22_quarter-streets")])
    assert len(found) == len({run.info.run_name for run in found})


def test_a_solution_that_diverges_is_named_and_the_others_are_measured(store: Path) -> None:
    def diverging(base: Any, samples: Any, problem: Any, recipe: Any, **options: Any) -> Any:
        if options["loss"] is not None:
            raise DivergedError("the loss became nan in epoch 1")
        return finetune(base, samples, problem, recipe, **options)

    spec = CONTENT["benchmark"] | {"stability": {"alpha": [9.0]}, "bounds": None, "frequency": None, "seeds": [0]}
    with patch("tasks.benchmarking.baselines.finetune", diverging):
        measured = benchmark(plan(store, benchmark=spec))
    assert measured.has_died
    assert measured.failures
    assert all("stability training alpha=9, sigma=0.1" in line and "nan" in line for line in measured.failures)
    results = Results(read_results(Path(measured.table))[0], plan(store).levels)
    stability = next(s for s in results.solutions if s.name == solutions.STABILITY)
    assert str(results.cell(stability, "jpeg:quality=5")) == "diverged"
    assert str(results.average(stability)) == "0 of 3 levels"
    assert not results.average(Solution(solutions.ADAPTOR)).problem
    assert "diverged" in Path(measured.report).read_text()


def test_a_benchmark_of_one_level_has_a_report_too(store: Path) -> None:
    spec = {"baselines": [], "matrix": False, "examples": 0}
    measured = benchmark(plan(store, levels=["jpeg:quality=5"], benchmark=spec))
    assert measured.failures == ()
    assert "Is GearNN worth it?" in Path(measured.report).read_text()


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"baselines": ["mixd"]}, "benchmark.baselines.0: expected 'mixed'"),
        ({"bounds": {"levels": ["jpeg:quality=7"]}}, "benchmark.bounds.levels: expected some of .* but got jpeg"),
        ({"stability": {"alpha": [0]}}, r"benchmark.stability.alpha.0: expected greater than 0"),
        ({"seeds": [1, 1]}, r"expected `seeds` without repetitions, but got \[1, 1\]"),
        ({"seeds": 3}, r"benchmark.seeds: expected a list, such as \[1, 2\], but got 3"),
        ([], r"benchmark: expected keys and values, but got \[\]"),
        ({"alpha": 1}, "unknown key benchmark.alpha, expected one of seeds"),
    ],
)
def test_a_benchmark_that_cannot_be_is_refused_before_it_starts(tmp_path: Path, spec: Any, told: str) -> None:
    with pytest.raises(PlanError, match=told):
        plan(tmp_path, benchmark=spec)


def test_the_command_prints_the_table_and_says_where_the_page_is(store: Path, tmp_path: Path, done: Any) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(CONTENT | {"store": str(store / "store")}))
    result = CliRunner().invoke(app, ["benchmark", str(path)])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    heading = next(line for line in lines if line.startswith("solution"))
    assert heading.split() == ["solution", *CONTENT["levels"], "mean"]
    gearnn = next(line for line in lines if line.startswith("adaptor  "))
    assert gearnn.count("±") == 3  # two distorted levels, and the mean; at Q=100 the base runs
    assert any(line.startswith("report:    ") and line.endswith("report.html") for line in lines)


def test_what_a_detector_cannot_have_is_named_and_the_rest_is_measured(tmp_path: Path) -> None:
    """Mask R-CNN has no BatchNorm that learns, and no predictions to compare: three solutions are not possible."""
    ours = plan(
        tmp_path,
        base={"name": "mask_rcnn", "kwargs": TINY_MASK_RCNN, "train": {"epochs": 1, "batch_size": 3, "clip": 1.0}},
        data={"name": "streets", "frames": {"train": 4, "val": 2, "test": 2}, "camera": {"size": [88, 60]}},
        levels=["jpeg:quality=5"],
        bound={"fraction": 0.05},
        benchmark={"frequency": {"frames": 2}, "matrix": False, "examples": 1},
    )
    measured = benchmark(ours)
    assert not measured.has_died
    assert [line.partition(": ")[0] for line in measured.failures] == [
        "stability training alpha=2, sigma=0.1, seed 0",
        "BatchNorm layers for jpeg:quality=5, seed 0",
        "BatchNorm re-estimated for jpeg:quality=5, seed 0",
    ]
    table = read_results(Path(measured.table))[0]
    assert {"mask_ap", "box_ap", "box_ap75"} <= set(table["metric"])
    results = Results(table, ours.levels)
    assert results.metric == "mask_ap"
    assert str(results.cell(Solution(solutions.BATCHNORM), "jpeg:quality=5")) == "not possible"
    assert not results.average(Solution(solutions.ADAPTOR)).problem
    figures = {path.stem for path in (Path(measured.report).parent / "figures").iterdir()}
    assert {"accuracy-mask-ap", "accuracy-box-ap", "frequency", "example-1"} <= figures


def test_a_figure_that_cannot_be_drawn_costs_its_own_place_only(store: Path) -> None:
    spec = {"baselines": [], "examples": 1}
    with patch("tasks.benchmarking.benchmark.draw_examples", side_effect=RuntimeError("out of memory")):
        measured = benchmark(plan(store, benchmark=spec))
    assert measured.failures == ("examples: RuntimeError: out of memory",)
    assert measured.has_died
    html = Path(measured.report).read_text()
    assert "examples: RuntimeError: out of memory" in html
    assert "With every level equally likely" in html
