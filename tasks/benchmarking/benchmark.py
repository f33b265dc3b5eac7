"""A benchmark's results where people look for them: a table, figures and a page as files, and MLflow runs."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact

from gearnn.evaluation import figures, solutions
from gearnn.evaluation.report import write_report
from gearnn.evaluation.results import OK, write_results
from gearnn.evaluation.solutions import NOT_POSSIBLE, PROMOTE, TEST
from gearnn.levels import DistortionLevel
from gearnn.plan import Plan
from gearnn.plan.opened import Opened
from gearnn.registry import runs
from gearnn.sensitivity import read_table
from gearnn.store.files import home
from gearnn.store.storage import Store, digest_of
from tasks.benchmarking.baselines import MIXED
from tasks.benchmarking.examples import draw_examples
from tasks.benchmarking.figures import Findings, draw
from tasks.benchmarking.memory import measure_memory
from tasks.benchmarking.report import compose
from tasks.records import Base, Benchmarked, Data, Entrant, Failure, FrequencyMap, Measured, Table
from tasks.registering.scorecard import all_figures

T = TypeVar("T")


@task(name="benchmark report")
def write_benchmark(
    plan: Plan,
    base: Base,
    data: Data,
    measured: Sequence[Measured],
    tables: Sequence[Table],
    maps: Sequence[FrequencyMap],
    gaps: Mapping[str, Failure],
) -> Benchmarked:
    """Write the table, the figures and the report, and log them to MLflow.

    ``<home>/benchmarks/<base>/<digest>/``: ``results.parquet``, ``report.html``, ``figures/*.png`` and
    ``*.svg``. In MLflow one run for the benchmark, and under it one a solution and seed.

    Args:
        plan: the plan.
        base: the base.
        data: the checked frames.
        measured: every solution at every level.
        tables: sensitivities.
        maps: frequency responses.
        gaps: what else could not be had -> why.
    """
    folder = home() / "benchmarks" / plan.registered_base / benchmark_digest(plan)[:12]
    folder.mkdir(parents=True, exist_ok=True)
    about, store = {"base_fingerprint": base.fingerprint, "plan": plan.model_dump_json()}, Opened(plan).store
    table = write_results(
        folder / "results.parquet", _rows(measured, base, store, {}), about
    )  # first of all, what is sure
    gaps, opened = dict(gaps), Opened(plan)
    with _benchmark_run(plan) as (run_id, log_solutions):
        table = write_results(folder / "results.parquet", _rows(measured, base, store, log_solutions(measured)), about)
        findings = Findings(
            plan=plan,
            base=base,
            data=data,
            table=table,
            sensitivities={t.level: read_table(opened.store.get(t.parquet))[0] for t in tables},
            responses={_title(m): np.load(opened.store.get(m.file)) for m in maps if m.block},
            whole_responses={_title(m): np.load(opened.store.get(m.file)) for m in maps if not m.block},
            memory=_attempt("memory", gaps, list, lambda: measure_memory(opened, base, measured)),
            examples=_attempt("examples", gaps, list, lambda: draw_examples(opened, base, measured)),
            run_id=run_id,
            failures=(*_failures(measured), *(f"{what}: {gap.reason}" for what, gap in gaps.items())),
        )
        drawn = draw(findings)
        report = folder / "report.html"
        shutil.rmtree(folder / "figures", ignore_errors=True)
        files = [path for name, figure in drawn.items() for path in figures.save(figure, folder / "figures" / name)]
        write_report(report, compose(findings, drawn))
        _publish(plan, run_id, [report, folder / "results.parquet"], files)
    missing = [*(m.failure for m in measured if m.failure), *gaps.values()]
    return Benchmarked(
        base=base,
        num_measured=int((table["status"] == OK).sum()),
        failures=findings.failures,
        has_died=any(failure.kind != NOT_POSSIBLE for failure in missing),
        table=str(folder / "results.parquet"),
        report=str(report),
    )


def _attempt(what: str, gaps: dict[str, Failure], otherwise: Callable[[], T], make: Callable[[], T]) -> T:
    """What is reported besides the table; where it fails, the report says so and has the rest."""
    try:
        return make()
    except Exception as error:
        gaps[what] = Failure.of(error)
        return otherwise()


def benchmark_digest(plan: Plan) -> str:
    """What distinguishes benchmarks: everything in their plan but where it runs and stores."""
    elsewhere = {"store", "runner", "workers", "loader_workers", "device", "format"}
    return digest_of(plan.model_dump(mode="json", exclude=elsewhere))


def _rows(
    measured: Sequence[Measured], base: Base, store: Store, run_ids: Mapping[tuple[str, str, int], str]
) -> list[dict[str, object]]:
    return [row for one in measured for row in _rows_of(one, base, store, run_ids)]


def _rows_of(
    measured: Measured, base: Base, store: Store, run_ids: Mapping[tuple[str, str, int], str]
) -> list[dict[str, object]]:
    """The rows of the table that one solution at one level gives: one a split and figure."""
    entrant, score = measured.entrant, measured.score
    trained = entrant.network or entrant.adaptor
    common: dict[str, object] = {
        "solution": entrant.solution,
        "setting": entrant.setting,
        "level_trained": entrant.trained,
        "level_tested": measured.level,
        "seed": entrant.seed,
        "num_values": _num_values(entrant, base),
        "seconds": trained.seconds if trained is not None else 0.0,
        "status": OK if measured.failure is None else measured.failure.kind,
        "reason": "" if measured.failure is None else measured.failure.reason,
        "run_id": run_ids.get(_key(entrant), ""),
        "low": float("nan"),
        "high": float("nan"),
        "draws": None,
    }
    if score is None:
        nothing = {"metric": "", "is_primary": False, "value": float("nan")}
        return [common | nothing | {"split": role} for role in (TEST, PROMOTE)]
    rows = []
    for role, value in score.values.items():
        for metric, figure in ({score.figure: value} | score.figures.get(role, {})).items():
            row = common | {"split": role, "metric": metric, "is_primary": metric == score.figure, "value": figure}
            if role == TEST and metric == score.figure:
                row |= {"low": score.low, "high": score.high}
            if role in score.draws and metric == score.figure:
                row |= {"draws": np.load(store.get(score.draws[role]))}
            rows.append(row)
    return rows


def _num_values(entrant: Entrant, base: Base) -> int:
    """What memory grows by: an adaptor's values, or a whole network for every level; nothing for a single network."""
    if entrant.adaptor is not None:
        return entrant.adaptor.num_values
    return base.num_values if entrant.solution == solutions.FULL else 0


def _key(entrant: Entrant) -> tuple[str, str, int]:
    return entrant.solution, entrant.setting, entrant.seed


@contextmanager
def _benchmark_run(plan: Plan) -> Iterator[tuple[str, Callable[[Sequence[Measured]], dict[tuple[str, str, int], str]]]]:
    """The MLflow run of a benchmark: its id, and what logs the solutions under it. Fails with what happens inside."""
    experiment, digest = runs.experiment_id(plan.registered_base), benchmark_digest(plan)
    run_id = runs.benchmark_run(experiment, digest, {"plan": plan.model_dump_json()})
    try:
        yield run_id, lambda measured: _log_solutions(experiment, run_id, digest, measured)
    except BaseException:
        runs.finish(run_id, failed=True)
        raise
    runs.finish(run_id)


def _log_solutions(
    experiment: str, parent: str, digest: str, measured: Sequence[Measured]
) -> dict[tuple[str, str, int], str]:
    """A nested run for every solution and seed, with its figures at every level; their ids."""
    metrics: dict[tuple[str, str, int], dict[str, float]] = {}
    for one in measured:
        found = metrics.setdefault(_key(one.entrant), {})
        if one.score is not None:
            elsewhere = one.entrant.adaptor is not None and one.entrant.trained != one.level
            trained = f"/adaptor_of_{_slug(one.entrant.trained)}" if elsewhere else ""
            for role in one.score.values:
                for name, value in all_figures(one.score, role).items():
                    found[f"{role}/{_slug(one.level)}{trained}/{name}"] = value
    return {key: runs.solution_run(experiment, parent, digest, *key, metrics=found) for key, found in metrics.items()}


def _failures(measured: Sequence[Measured]) -> tuple[str, ...]:
    """One line for everything that could not be trained, or not be scored."""
    lines = []
    for one in measured:
        if one.failure:
            entrant = one.entrant
            what = f"{entrant.solution} {entrant.setting}".strip()
            trained = f" for {entrant.trained}" if entrant.solution in solutions.PER_LEVEL else ""
            scored = "" if entrant.failure else f" at {one.level}"
            lines.append(f"{what}{trained}{scored}, seed {entrant.seed}: {one.failure.reason}")
    return tuple(dict.fromkeys(lines))


def _slug(level: str) -> str:
    return DistortionLevel.parse(level).slug


def _title(found: FrequencyMap) -> str:
    level = "" if found.level == MIXED else found.level
    return f"{found.solution}\n{level}".strip()


def _publish(plan: Plan, run_id: str, files: Sequence[Path], drawings: Sequence[Path]) -> None:
    """The files in the MLflow run, and an artifact in Prefect that leads there."""
    for path in files:
        runs.log_file(run_id, path, "benchmark")
    for path in drawings:
        runs.log_file(run_id, path, "benchmark/figures")
    key = f"benchmark-{plan.registered_base}".lower().replace("_", "-")
    uri, report = runs.shown_uri(), files[0]
    if uri.startswith("http"):
        link = f"{uri}/#/experiments/{runs.experiment_id(plan.registered_base)}/runs/{run_id}/artifacts"
        create_link_artifact(link, key=key, link_text="benchmark report in MLflow")
    else:
        create_markdown_artifact(
            f"[{report}]({report.as_uri()})\n\n`{runs.ui_command()}`, run `{run_id}`",
            key=key,
            description="benchmark report",
        )
