"""The results of a run where people look for them: files beside the store, and artifacts in Prefect's UI."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from gearnn.evaluation.solutions import TEST, title
from gearnn.levels import DistortionLevel
from gearnn.plan import Plan
from gearnn.plan.opened import Opened
from gearnn.registry import runs
from gearnn.registry.names import TAG_PLAN
from gearnn.store.files import home
from gearnn.store.storage import Ref, Store
from tasks.records import Base, Data, Row, Score
from tasks.registering.register import plan_digest
from tasks.registering.scorecard import all_figures, markdown, scorecard, table_cells


@task(name="report", task_run_name="report {plan.registered_base}")
def write_report(plan: Plan, base: Base, data: Data, pristine: Score, rows: Sequence[Row]) -> str:
    """Write the run's table, scores and sensitivity tables; the path of the report.

    ``<home>/reports/<base>/<plan digest>/``: ``report.md``, ``scores.parquet``,
    ``adaptors/<level slug>.safetensors`` and ``sensitivity/<distortion>/<level slug>.parquet``.
    """
    folder = home() / "reports" / plan.registered_base / plan_digest(plan)[:12]
    folder.mkdir(parents=True, exist_ok=True)
    cells, store = table_cells(rows, base), Opened(plan).store
    pd.DataFrame(_scores(rows)).to_parquet(folder / "scores.parquet", index=False)
    for row in rows:
        level = DistortionLevel.parse(row.level)
        _copy(store, row.table.parquet, folder / "sensitivity" / level.kind / f"{level.slug}.parquet")
        _copy(store, row.adaptor.file, folder / "adaptors" / f"{level.slug}.safetensors")
    report = folder / "report.md"
    report.write_text(_report(plan, base, data, pristine, rows, cells))
    _publish(plan, cells, report)
    return str(report)


def _report(
    plan: Plan, base: Base, data: Data, pristine: Score, rows: Sequence[Row], cells: Sequence[Sequence[str]]
) -> str:
    cards = "\n".join(scorecard(row, base, data, {TAG_PLAN: plan_digest(plan)}) for row in rows)
    return (
        f"# {plan.registered_base}\n\n"
        f"{title(pristine.figure)} in percent on the split `{plan.data.splits.test}`; "
        f"base of {base.num_values:,} values, "
        f"{pristine.values[TEST]:.2f} on undistorted frames. Frames: {data.in_words}.\n\n"
        f"{markdown(cells)}\n\n{cards}"
    )


def _scores(rows: Sequence[Row]) -> list[dict[str, object]]:
    return [
        {"level": row.level, "solution": score.solution, "split": role, "figure": figure, "value": value}
        for row in rows
        for score in row.scores.values()
        for role in score.values
        for figure, value in all_figures(score, role).items()
    ]


def _copy(store: Store, ref: Ref, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(store.get(ref), target)


def _publish(plan: Plan, cells: Sequence[Sequence[str]], report: Path) -> None:
    """Artifacts of the flow run: the table of levels, the report, and the way to MLflow."""
    key = f"adapt-{plan.registered_base}".lower().replace("_", "-")
    heading, *body = cells
    create_table_artifact(
        [dict(zip(heading, line, strict=True)) for line in body], key=f"{key}-levels", description="accuracy by level"
    )
    create_markdown_artifact(report.read_text(), key=f"{key}-report")
    uri = runs.shown_uri()
    if uri.startswith("http"):
        create_link_artifact(f"{uri}/#/models/{plan.registered_base}", key=f"{key}-mlflow", link_text="MLflow")
    else:
        create_markdown_artifact(f"`{runs.ui_command()}`", key=f"{key}-mlflow", description="opens the MLflow UI")
