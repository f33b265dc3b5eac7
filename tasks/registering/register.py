"""Versions in the MLflow registry, each on a run that holds the metrics by which people choose."""

import json
from collections.abc import Mapping
from typing import Any

from prefect import task

from gearnn import registry
from gearnn.evaluation import solutions
from gearnn.plan import Plan
from gearnn.plan.opened import Opened
from gearnn.plan.sections import ProblemSpec
from gearnn.registry import Version, runs
from gearnn.registry.description import BaseDescription
from gearnn.registry.names import (
    CHAMPION,
    LOSS_FULL,
    LOSS_PARTIAL,
    NUM_VALUES,
    SHARE,
    TAG_DATA,
    TAG_FIGURE,
    TAG_FRAMES,
    TAG_MADE_FROM,
    TAG_PLAN,
    TAG_PROMOTE_DATA,
    metric_name,
)
from gearnn.store.storage import digest_of
from tasks.records import Base, Data, Registered, Row
from tasks.registering.ingredients import ingredients_of
from tasks.registering.scorecard import all_figures, scorecard


@task(name="register base", task_run_name="register base {plan.registered_base}")
def register_base(plan: Plan, base: Base, data: Data) -> Registered:
    """The base as a registered model; the same weights are registered once."""
    opened, run_id = Opened(plan), _plan_run(plan, data)
    if base.epoch_losses:
        runs.log(run_id, curves={LOSS_FULL: base.epoch_losses})
    version = registry.register_base(
        plan.registered_base,
        opened.store.get(base.weights),
        base.fingerprint,
        BaseDescription.of(plan.base.network, opened.num_classes, plan.base.kwargs, opened.problem),
        run_id=run_id,
        num_values=base.num_values,
    )
    champion = registry.by_alias(version.name, CHAMPION)  # until its adaptors are there, that is the old one
    return Registered(level="", name=version.name, version=version.version, champion=champion.version)


@task(name="register adaptor", task_run_name="register adaptor {row.adaptor.level}")
def register_adaptor(plan: Plan, base: Base, data: Data, registered: Registered, row: Row) -> Registered:
    """One adaptor as a new version, with lineage to its base; the same result is registered once.

    It becomes challenger; :func:`tasks.registering.promote.put_into_use` decides about the champion.
    """
    base_version = registry.get_version(registered.name, registered.version)
    identity = digest_of(
        {"adaptor": row.adaptor.file.sha256, "base": base_version.uri, "scores": _decisive(row), "data": data.digests}
    )
    version = _register(Opened(plan), base, data, base_version, row, identity)
    champion = registry.aliased(version.name, CHAMPION)
    return Registered(
        level=row.level,
        name=version.name,
        version=version.version,
        champion="" if champion is None else champion.version,
    )


@task(name="register gearbox", task_run_name="register gearbox {base}")
def register_gearbox(base: str) -> Registered | None:
    """The base of this name with all of its champions as one version to be served; the same set is registered once.

    None where none of its adaptors is champion.
    """
    if not registry.chosen_for(registry.by_alias(base, CHAMPION)):
        return None
    version = registry.register_gearbox(base)
    return Registered(level="", name=version.name, version=version.version, champion=version.version)


_ELSEWHERE = {"store", "runner", "workers", "loader_workers", "device", "benchmark", "promotion", "format"}
"""Keys of a plan that say where it runs, where results lie, what is done with them, and how to read the others."""


def plan_digest(plan: Plan) -> str:
    """What distinguishes plans in the registry: everything that decides an adaptor."""
    content = plan.model_dump(mode="json", exclude=_ELSEWHERE)
    base = content["base"]
    content["data"]["splits"].pop("overlap")
    for section, key, default in (
        (content["bound"], "select", "eq2"),
        (content, "problem", ProblemSpec().model_dump()),
        (base, "module", None),
        (base, "kwargs", {}),
        (base, "submodule", None),
    ):  # keys that came later: a plan without them has the digest that it had before
        if section.get(key) == default:
            section.pop(key, None)
    for section, key, spec in (
        (content, "finetune", plan.finetune),
        (content, "partial", plan.of_adaptors),
        (base, "train", plan.base.train),
    ):
        section[key] = spec.facts() if spec is not None else None
    if content["partial"] == content["finetune"]:  # as plans of before had it, that said nothing of adaptors
        content["partial"] = None
    return digest_of(content)


def _register(opened: Opened, base: Base, data: Data, base_version: Version, row: Row, identity: str) -> Version:
    plan = opened.plan
    tags = {
        TAG_PLAN: plan_digest(plan),
        TAG_DATA: data.digests["train"],
        TAG_PROMOTE_DATA: data.digests["promote"],
        TAG_FIGURE: _figure(row),
        TAG_FRAMES: data.in_words,
    }
    made_from = json.dumps(ingredients_of(opened, base, data, row.level), sort_keys=True)
    experiment = runs.experiment_id(plan.registered_base)
    run_id, _ = runs.level_run(experiment, _plan_run(plan, data), row.level, identity, tags)
    try:
        runs.log(run_id, params=_params(plan, row), metrics=_metrics(base, row), curves=_curves(row))
        runs.log_file(run_id, opened.store.get(row.table.parquet), "sensitivity")
        version = registry.register_adaptor(
            base_version,
            opened.store.get(row.adaptor.file),
            run_id=run_id,
            identity=identity,
            tags={**tags, TAG_MADE_FROM: made_from},
            card=scorecard(row, base, data, tags),
        )
    except BaseException:
        runs.finish(run_id, failed=True)
        raise
    runs.finish(run_id)
    return version


def _plan_run(plan: Plan, data: Data) -> str:
    experiment = runs.experiment_id(plan.registered_base)
    params = {
        "base": plan.base.network,
        "data": plan.data.name,
        "levels": ", ".join(plan.levels),
        "frames": str(data.num_frames),
        "plan": plan.model_dump_json(),
    }
    return runs.plan_run(experiment, plan_digest(plan), params)


def _params(plan: Plan, row: Row) -> dict[str, Any]:
    how = plan.of_adaptors
    return {
        "level": row.level,
        "layers": len(row.selection.layers),
        "bound_values": row.selection.bound,
        "granularity": plan.bound.granularity,
        "batchnorm_statistics": plan.bound.batchnorm_statistics,
        "epochs": how.epochs,
        "batch_size": how.batch_size,
        "optimizer": how.optimizer.name,
        "lr": how.optimizer.lr * row.selection.rate,
        "relative": how.optimizer.relative,
        "clip": how.clip,
        "distill": plan.distill,
        "schedule": how.schedule,
        "warmup": how.warmup,
        "seed": plan.seed,
    }


def _metrics(base: Base, row: Row) -> dict[str, float]:
    scores = {
        metric_name(role, solution, figure): value
        for solution, score in row.scores.items()
        for role in score.values
        for figure, value in all_figures(score, role).items()
    }
    size = {NUM_VALUES: row.adaptor.num_values, SHARE: 100 * row.adaptor.num_values / base.num_values}
    return scores | size


def _curves(row: Row) -> Mapping[str, tuple[float, ...]]:
    return {LOSS_FULL: row.full.epoch_losses, LOSS_PARTIAL: row.adaptor.epoch_losses}


def _decisive(row: Row) -> dict[str, float]:
    return row.scores[solutions.ADAPTOR].values


def _figure(row: Row) -> str:
    return row.scores[solutions.ADAPTOR].figure
