"""What a retraining found and made, as tables in Prefect's UI."""

from collections.abc import Sequence

from prefect import task
from prefect.artifacts import create_link_artifact, create_table_artifact

from gearnn.registry import runs
from tasks.records import Finding, Registered

FINDINGS_KEY, REGISTERED_KEY = "retrain-findings", "retrain-registered"
"""Keys of the artifacts; whoever waits for a run, such as CI, reads them by these."""


def finding_cells(findings: Sequence[Finding]) -> list[tuple[str, ...]]:
    """The comparison as a table, headings first."""
    rows = [(f.name, f.level, f.state, f.version, "; ".join(f.reasons), f.plan) for f in findings]
    return [("model", "level", "state", "version", "why", "plan"), *rows]


def registered_cells(registered: Sequence[Registered]) -> list[tuple[str, ...]]:
    """What was registered as a table, headings first."""
    rows = [(r.name, r.level, r.version, r.champion or "none", r.reason) for r in registered]
    return [("model", "level", "new version", "champion", "the new version"), *rows]


@task(name="publish findings", task_run_name="publish findings")
def publish_findings(findings: Sequence[Finding]) -> None:
    """What the comparison found."""
    create_table_artifact(_as_rows(finding_cells(findings)), key=FINDINGS_KEY, description="plans beside the registry")


@task(name="publish what is registered", task_run_name="publish what is registered")
def publish_registered(registered: Sequence[Registered]) -> None:
    """The new versions, and the way to them."""
    create_table_artifact(_as_rows(registered_cells(registered)), key=REGISTERED_KEY, description="new versions")
    uri = runs.shown_uri()
    if uri.startswith("http"):
        create_link_artifact(f"{uri}/#/models", key="retrain-mlflow", link_text="the registry in MLflow")


def _as_rows(cells: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    heading, *body = cells
    return [dict(zip(heading, line, strict=True)) for line in body]
