"""What the plans want beside what the registry has, and what to do about the difference."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import task

from gearnn import registry
from gearnn import vocabulary as words
from gearnn.copies import look_anew
from gearnn.errors import PlanError
from gearnn.plan import Plan
from gearnn.registry import Version
from tasks.base import prepare_base
from tasks.data import digests_of
from tasks.ingredients import differences, ingredients_of
from tasks.records import Base, Data, Finding

_OLD = "it was registered before GearNN kept what adaptors are made from"


def read_plans(places: Sequence[str]) -> dict[str, Plan]:
    """Plans by the file that holds them; of a folder, every ``*.yaml`` in it and below.

    Raises:
        PlanError: nothing there, or a plan that is wrong.
    """
    files: list[Path] = []
    for place in map(Path, places):
        found = sorted({*place.rglob("*.yaml"), *place.rglob("*.yml")}) if place.is_dir() else [place]
        if not found:
            raise PlanError(f"plans: expected *.yaml in {place}, but it holds none")
        files += [file for file in found if file not in files]
    if not files:
        raise PlanError("plans: expected at least one file or folder, but got none")
    return {str(file): Plan.load(file) for file in files}


@task(name="compare", task_run_name="compare plans with the registry")
def compare(plans: Mapping[str, Plan], levels: Collection[str] = ()) -> list[Finding]:
    """Find what is missing, what is out of date and why, what is there, and what no plan wants.

    Only bases that the plans name are looked at. Two requests to MLflow tell all that it holds.

    Args:
        plans: name -> plan.
        levels: only these; none: all.

    Raises:
        PlanError: two plans want different adaptors under one name.
    """
    look_anew()
    held: dict[str, list[Version]] = {}
    for version in registry.adaptors():  # newest first
        held.setdefault(version.name, []).append(version)
    wanted: dict[str, tuple[str, dict[str, Any] | None]] = {}
    findings = []
    for source, plan in plans.items():
        data = Data(digests=digests_of(plan), num_frames={})
        base = _base(plan, data)
        for level in plan.distortion_levels:
            name = f"{plan.registered_base}.{level.slug}"
            made_from = None if base is None else ingredients_of(plan, base, data, str(level))
            if name in wanted:
                _refuse_two(name, source, made_from, *wanted[name])
                continue
            wanted[name] = source, made_from
            if not levels or str(level) in levels:
                findings.append(_finding(source, plan, str(level), name, made_from, held.get(name, [])))
    return findings + ([] if levels else _retired(plans, held, wanted))


def _base(plan: Plan, data: Data) -> Base | None:
    """The plan's base, if it is there: a checkpoint is read, but none is trained for this."""
    if plan.base.train is not None:
        known: Base | None = prepare_base.fn.known(plan, data)
        return known
    prepared = prepare_base.fn(plan, data)
    return getattr(prepared, "data", prepared)


def _refuse_two(
    name: str, source: str, made_from: dict[str, Any] | None, other: str, other_made_from: dict[str, Any] | None
) -> None:
    if made_from != other_made_from:
        told = "; ".join(differences(other_made_from or {}, made_from or {}))
        raise PlanError(f"plans: expected one recipe for {name}, but {other} and {source} differ: {told}")


def _finding(
    source: str, plan: Plan, level: str, name: str, made_from: dict[str, Any] | None, versions: Sequence[Version]
) -> Finding:
    """What is to be done about one level."""

    def told(state: str, *reasons: str, version: str = "") -> Finding:
        return Finding(
            plan=source,
            base=plan.registered_base,
            level=level,
            name=name,
            state=state,  # type: ignore[arg-type]
            reasons=reasons,
            version=version,
        )

    if made_from is None:
        return told("missing", "its base is not trained yet, or in another store")
    if not versions:
        return told("missing", "none is registered")
    recorded = [(v, json.loads(v.tags[words.TAG_MADE_FROM])) for v in versions if words.TAG_MADE_FROM in v.tags]
    is_archived = any(words.ARCHIVED in v.aliases for v in versions)
    for version, ingredients in recorded:
        if ingredients == made_from:
            state = ("archived", "it was retired, and comes back") if is_archived else ("present",)
            return told(*state, version=version.version)
    reasons = differences(recorded[0][1], made_from) if recorded else (_OLD,)
    return told("changed", *reasons, version=versions[0].version)


def _retired(
    plans: Mapping[str, Plan], held: Mapping[str, Sequence[Version]], wanted: Collection[str]
) -> list[Finding]:
    """Levels of the plans' bases that are in use, but in no plan."""
    bases = {plan.registered_base for plan in plans.values()}
    findings = []
    for name, versions in held.items():
        newest = versions[0]
        base = newest.tags[words.TAG_BASE_URI].removeprefix("models:/").rpartition("/")[0]
        if base in bases and name not in wanted and not any(words.ARCHIVED in v.aliases for v in versions):
            findings.append(
                Finding(
                    plan="",
                    base=base,
                    level=newest.tags[words.TAG_LEVEL],
                    name=name,
                    state="retired",
                    reasons=("no plan has this level",),
                    version=newest.version,
                )
            )
    return findings


@task(name="archive", task_run_name="archive {finding.name}")
def archive_level(finding: Finding) -> None:
    """Take a retired level's adaptors out of use; they stay in the registry."""
    registry.archive(finding.name)


@task(name="restore", task_run_name="restore {finding.name}")
def restore_level(finding: Finding) -> None:
    """Put an archived level's adaptors into use again."""
    registry.restore(finding.name)
