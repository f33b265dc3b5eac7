"""What ``gearnn doctor`` asks Prefect and MLflow."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

from prefect import __version__ as own_version
from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import ObjectNotFound

from gearnn import tracking
from gearnn.servers import check_mlflow, probe_mlflow, series, shown
from tasks.doctor import Check
from tasks.prefect_server import address, asking, check_prefect, listed

_FLOWS = ("adapt", "adapt-level", "benchmark", "retrain", "train-base")
_DEPLOY = "prefect --no-prompt deploy --all"


def prefect_checks(pool: str) -> Iterator[Check]:
    """The API, and what a deployment's run needs there.

    Raises:
        ServerError: it does not answer, does not let us in, or is too old.
    """
    where = address()
    if where is None:
        found = "PREFECT_API_URL is not set: each command starts a server of its own; no work pools, no deployments"
        yield Check(mark="ok", what="Prefect", found=found)
        return
    version = check_prefect()
    found = f"{shown(where)}, version {version}"
    if series(version) < series(own_version):
        found += f", older than {own_version} here; upgrade the server"
        yield Check(mark="warn", what="Prefect", found=found)
    else:
        yield Check(mark="ok", what="Prefect", found=found)
    with asking() as client:
        yield _pool(client, pool)
        yield _deployments(client, pool)
        yield from _limits(client)


def _pool(client: SyncPrefectClient, name: str) -> Check:
    what = f"work pool {name}"
    try:
        pool = client.read_work_pool(name)
    except ObjectNotFound:
        others = ", ".join(sorted(entry["name"] for entry in listed(client, "work_pools"))) or "none"
        make = f"`prefect work-pool create {name} --type process`, or --pool with another name"
        found = f"expected a work pool of this name, but the server has {others}; {make}"
        return Check(mark="fail", what=what, found=found, status=1)
    if pool.is_paused:
        found = f"it is paused, its runs wait; `prefect work-pool resume {name}`"
        return Check(mark="warn", what=what, found=found)
    workers = listed(client, f"work_pools/{name}/workers")
    online = sorted(worker["name"] for worker in workers if worker["status"] == "ONLINE")
    if not online:
        found = f"no worker is online, its runs wait; `prefect worker start --pool {name}` on a machine with a GPU"
        return Check(mark="warn", what=what, found=found)
    most = "" if pool.concurrency_limit is None else f", at most {pool.concurrency_limit} runs at a time"
    return Check(mark="ok", what=what, found=f"type {pool.type}, online: {', '.join(online)}{most}")


def _deployments(client: SyncPrefectClient, pool: str) -> Check:
    flows = {flow["id"]: flow["name"] for flow in listed(client, "flows", flows={"name": {"any_": list(_FLOWS)}})}
    found = [
        deployment
        for deployment in listed(client, "deployments", flows={"name": {"any_": list(_FLOWS)}})
        if deployment["work_pool_name"] == pool and deployment["flow_id"] in flows
    ]
    found = sorted(found, key=lambda d: (_FLOWS.index(flows[d["flow_id"]]), d["name"]))
    names = {f"{flows[d['flow_id']]}/{d['name']}": d for d in found}
    missing = [flow for flow in _FLOWS if not any(name.startswith(f"{flow}/") for name in names)]
    if missing:
        there = f"; there: {', '.join(names)}" if names else ""
        told = f"none on the work pool {pool} for {', '.join(missing)}{there}; `{_DEPLOY}`"
        return Check(mark="warn", what="deployments", found=told)
    paused = sorted(name for name, deployment in names.items() if deployment["paused"])
    versions = _versions(list(names.values()))
    told = f"{', '.join(names)}; {'of version ' + versions[0] if versions else 'without a version'}"
    if len(versions) > 1:
        told = f"of several versions, {', '.join(versions)}; `{_DEPLOY}`"
    if paused:
        told += f"; paused: {', '.join(paused)}; `prefect deployment resume {paused[0]}`"
    return Check(mark="warn" if paused or len(versions) > 1 else "ok", what="deployments", found=told)


def _versions(deployments: Sequence[dict[str, Any]]) -> list[str]:
    return sorted({str(deployment["version"]) for deployment in deployments if deployment.get("version")})


def _limits(client: SyncPrefectClient) -> Iterator[Check]:
    """Limits of how many runs go at a time, and how much of each is taken."""
    limits = [limit for limit in listed(client, "v2/concurrency_limits") if limit["active"]]
    if limits:
        told = ", ".join(f"{limit['name']} {limit['active_slots']} of {limit['limit']}" for limit in limits)
        full = [limit["name"] for limit in limits if limit["active_slots"] >= limit["limit"]]
        waits = f"; runs wait for {', '.join(full)}; a crashed run gives its place back after its lease" if full else ""
        yield Check(mark="warn" if full else "ok", what="limits", found=f"taken: {told}{waits}")


def mlflow_checks() -> Iterator[Check]:
    """The tracking server, and whether runs and artifacts can be written.

    Raises:
        ServerError: one of this does not work.
    """
    where = shown(tracking.tracking_uri())
    if tracking.embed_artifacts() is not None:
        yield Check(mark="ok", what="MLflow", found=f"MLFLOW_TRACKING_URI is not set: {where} on this machine is used")
        return
    version = check_mlflow(retries=0)
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    told = f", version {version}" if version else ""
    yield Check(mark="ok", what="MLflow", found=f"{where}{told}{f', as {user}' if user else ''}")
    probe_mlflow()
    yield Check(
        mark="ok", what="MLflow writing", found="a run and an artifact were written and read, the latter removed"
    )
