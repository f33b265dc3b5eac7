"""What ``gearnn doctor`` asks Prefect and MLflow."""

import os
from collections.abc import Iterator
from typing import Any

from prefect import __version__ as own_version
from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import ObjectNotFound

from gearnn.plan import Plan
from gearnn.registry import runs
from gearnn.registry.servers import check_mlflow, probe_mlflow, series
from gearnn.store.addresses import shown
from tasks.doctor.checks import Check
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
        yield from _deployments(client, pool)


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


def _deployments(client: SyncPrefectClient, pool: str) -> Iterator[Check]:
    """Whether every flow is deployed on the pool, from plans as they are known here; and how many runs go at a time."""
    flows = {flow["id"]: flow["name"] for flow in listed(client, "flows", flows={"name": {"any_": list(_FLOWS)}})}
    found = [d for d in listed(client, "deployments") if d["work_pool_name"] == pool and d["flow_id"] in flows]
    found = sorted(found, key=lambda d: (_FLOWS.index(flows[d["flow_id"]]), d["name"]))
    names = {d["id"]: f"{flows[d['flow_id']]}/{d['name']}" for d in found}
    missing = [flow for flow in _FLOWS if not any(flows[d["flow_id"]] == flow for d in found)]
    paused = [names[d["id"]] for d in found if d["paused"]]
    strange = sorted({key for d in found for key in _strange_keys(d)})
    troubles = [
        f"none on the work pool {pool} for {', '.join(missing)}; `{_DEPLOY}`" if missing else "",
        f"paused: {', '.join(paused)}; `prefect deployment resume {paused[0]}`" if paused else "",
        f"deployed from another version, whose plans differ in {', '.join(strange)}; `{_DEPLOY}`" if strange else "",
    ]
    told = "; ".join([trouble for trouble in troubles if trouble] or [", ".join(names.values())])
    yield Check(mark="warn" if any(troubles) else "ok", what="deployments", found=told)
    yield from _limits(client, names)


def _strange_keys(deployment: dict[str, Any]) -> set[str]:
    """Keys of a plan that the deployment's parameters have and this version has not, or the other way round."""
    schema = (deployment.get("parameter_openapi_schema") or {}).get("definitions", {}).get("Plan")
    return set() if schema is None else set(schema.get("properties", {})) ^ set(Plan.model_fields)


def _limits(client: SyncPrefectClient, names: dict[str, str]) -> Iterator[Check]:
    """How many runs there are of how many at a time, for each limit on the server; ``names`` of deployments by id."""
    told = []
    for limit in listed(client, "v2/concurrency_limits"):
        deployment = limit["name"].removeprefix("deployment:")
        if limit["active"] and (deployment == limit["name"] or deployment in names):
            full = ", so others wait" if limit["active_slots"] >= limit["limit"] else ""
            told.append(f"{names.get(deployment, deployment)} {limit['active_slots']} of {limit['limit']}{full}")
    if told:
        yield Check(mark="ok", what="runs at a time", found=", ".join(sorted(told)))


def mlflow_checks() -> Iterator[Check]:
    """The tracking server, and whether runs and artifacts can be written.

    Raises:
        ServerError: one of this does not work.
    """
    where = shown(runs.tracking_uri())
    if runs.embed_artifacts() is not None:
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
