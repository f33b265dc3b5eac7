"""A retraining as Markdown, for the summary of a CI job."""

import json
import os
from collections.abc import Sequence
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun

from flows.running import deployments
from infra.ci.changes import Changes, Request
from tasks.retraining.report import FINDINGS_KEY, REGISTERED_KEY


def what_is_asked(changes: Changes) -> list[str]:
    """What the push has added, and what it has changed besides."""
    lines = [f"- `{plan}`: {', '.join(f'`{level}`' for level in levels)}" for plan, levels in changes.added.items()]
    head = ["New levels:", "", *lines] if lines else ["No plan has new levels; nothing is trained."]
    return [*head, "", *(f"- {note}" for note in changes.notes), ""]


def what_came(client: SyncPrefectClient, run: FlowRun, request: Request) -> list[str]:
    """How a run has ended, what it found, and what it registered."""
    plans = ", ".join(f"`{plan}`" for plan in request.plans)
    over = run.state is not None and run.state.is_final()
    lines = [
        f"[{run.name}]({deployments.link(run)}) for {plans}: {deployments.reason(run)}",
        "",
    ]
    if not over:
        lines += ["It goes on; a second run of this job waits for the same one.", ""]
    registered, findings = (table(client, run, key) for key in (REGISTERED_KEY, FINDINGS_KEY))
    if registered:
        lines += ["Registered:", "", *markdown([_linked(row) for row in registered]), ""]
    elif over:
        lines += ["Nothing was registered.", ""]
    if findings:
        lines += ["What the registry had before:", "", *markdown(findings), ""]
    return lines


def table(client: SyncPrefectClient, run: FlowRun, key: str) -> list[dict[str, Any]]:
    """Rows of the newest table of this key that a run has made; none where there is none."""
    found = client.read_artifacts(
        artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])),
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])),
    )
    newest = max(found, key=lambda artifact: str(artifact.created), default=None)
    if newest is None or newest.data is None:
        return []
    data: Any = newest.data
    rows: list[dict[str, Any]] = json.loads(data) if isinstance(data, str) else data
    return rows


def markdown(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A table in GitHub's Markdown."""
    heading = list(rows[0])
    lines = [[_cell(row.get(name, "")) for name in heading] for row in rows]
    return [f"| {' | '.join(cells)} |" for cells in ([_cell(h) for h in heading], ["---"] * len(heading), *lines)]


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _linked(row: dict[str, Any]) -> dict[str, Any]:
    """The model's name leads to its new version in MLflow."""
    server = os.environ.get("MLFLOW_TRACKING_URI", "").rstrip("/")
    if not server.startswith("http"):
        return row
    return row | {"model": f"[{row['model']}]({server}/#/models/{row['model']}/versions/{row['new version']})"}
