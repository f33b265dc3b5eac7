"""What the plans want beside what the registry has."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefect import task

from gearnn import registry
from gearnn.errors import GearNNError, PlanError
from gearnn.plan import Plan
from gearnn.plan.opened import Opened
from gearnn.registry import Version
from gearnn.registry.names import ARCHIVED, CHALLENGER, CHAMPION, TAG_BASE_URI, TAG_DECISION, TAG_LEVEL, TAG_MADE_FROM
from gearnn.store.copies import look_anew
from tasks.adapting.base import prepare_base
from tasks.adapting.data import digests_of
from tasks.records import Base, Data, Finding
from tasks.registering.ingredients import differences, ingredients_of

_OLD = "it was registered before GearNN kept what adaptors are made from"


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a plan wants at one level.

    Attributes:
        plan: file that holds the plan.
        base: name of the registered base.
        level: q.
        name: of the registered model.
        made_from: its ingredients; None where its base is not there.
    """

    plan: str
    base: str
    level: str
    name: str
    made_from: Mapping[str, Any] | None

    def finding(self, state: Any, *reasons: str, version: str = "") -> Finding:
        """What is the matter with it."""
        return Finding(
            plan=self.plan,
            base=self.base,
            level=self.level,
            name=self.name,
            state=state,
            reasons=reasons,
            version=version,
        )


@task(name="compare", task_run_name="compare plans with the registry")
def compare(plans: Mapping[str, Plan], levels: Collection[str] = ()) -> list[Finding]:
    """Find what is missing, what is out of date and why, what is there, and what no plan wants.

    Only bases that the plans name are looked at. A handful of requests to MLflow say all that it holds.
    A plan whose frames or base cannot be read is a finding of its own, and keeps its base's other levels from
    counting as retired.

    Args:
        plans: name -> plan.
        levels: only these, in canonical text; none: all.

    Raises:
        PlanError: two plans want different adaptors, or different bases, under one name; or a level that no plan has.
    """
    look_anew()
    _check_levels(plans, levels)
    wishes, failed = _wishes(plans)
    _refuse_contradictions(wishes)
    held: dict[str, list[Version]] = {}
    for version in registry.adaptors():  # newest first
        held.setdefault(version.name, []).append(version)
    bases = registry.bases()
    unique = {wish.name: wish for wish in reversed(wishes)}
    chosen = [wish for wish in unique.values() if not levels or wish.level in levels][::-1]
    findings = [_finding(wish, held.get(wish.name, []), bases) for wish in chosen]
    complete = {plan.registered_base for plan in plans.values()} - {finding.base for finding in failed}
    return failed + findings + ([] if levels else _retired(complete, held, unique))


def _check_levels(plans: Mapping[str, Plan], levels: Collection[str]) -> None:
    known = {str(level) for plan in plans.values() for level in plan.distortion_levels}
    unknown = sorted(set(levels) - known)
    if unknown:
        raise PlanError(f"levels: expected some of {', '.join(sorted(known))}, but got {', '.join(unknown)}")


def _wishes(plans: Mapping[str, Plan]) -> tuple[list[Wish], list[Finding]]:
    """What the plans want, and which of them cannot be found out."""
    wishes, failed = [], []
    for source, plan in plans.items():
        name = plan.registered_base
        try:
            opened = Opened(plan)
            data = Data(digests=digests_of(opened), num_frames={})
            base = _base(opened, data)
            for level in map(str, plan.distortion_levels):
                made_from = None if base is None else ingredients_of(opened, base, data, level)
                wishes.append(Wish(plan=source, base=name, level=level, name=_name(plan, level), made_from=made_from))
        except GearNNError as error:
            failed.append(Finding(plan=source, base=name, level="", name=name, state="failed", reasons=(str(error),)))
    return wishes, failed


def _name(plan: Plan, level: str) -> str:
    slugs = {str(known): known.slug for known in plan.distortion_levels}
    return f"{plan.registered_base}.{slugs[level]}"


def _base(opened: Opened, data: Data) -> Base | None:
    """The plan's base, if it is there: a checkpoint is read, but none is trained for this."""
    if opened.plan.base.train is not None:
        return prepare_base.known(opened, data)
    return prepare_base.run(opened, data)


def _refuse_contradictions(wishes: Sequence[Wish]) -> None:
    """One registered base is one network, and has one recipe a level, however many plans share it."""
    first: dict[str, Wish] = {}
    for wish in wishes:
        other = first.setdefault(wish.name, wish)
        if other.made_from != wish.made_from:
            told = "; ".join(differences(other.made_from or {}, wish.made_from or {}))
            raise PlanError(
                f"plans: expected one recipe for {wish.name}, but {other.plan} and {wish.plan} differ: {told}"
            )
    networks: dict[str, tuple[str, Any]] = {}
    for wish in wishes:
        if wish.made_from is None:
            continue
        network = wish.made_from["base"], wish.made_from.get("network"), wish.made_from["problem"]
        source, known = networks.setdefault(wish.base, (wish.plan, network))
        if known != network:
            raise PlanError(
                f"plans: expected one base under the name {wish.base}, but {source} and {wish.plan} have two; "
                f"base.registered_as gives one of them another name"
            )


def _finding(wish: Wish, versions: Sequence[Version], bases: Mapping[str, Version]) -> Finding:
    """What is to be done about one level."""
    if wish.made_from is None:
        return wish.finding("missing", "its base is not trained yet, or in another store")
    if not versions:
        return wish.finding("missing", "none is registered")
    tag = TAG_MADE_FROM
    recorded = [(v, registry.json_of(v.tags[tag], f"{v.uri}, tag {tag}")) for v in versions if tag in v.tags]
    fitting = [version for version, made_from in recorded if made_from == wish.made_from]
    if not fitting:
        reasons = differences(recorded[0][1], wish.made_from) if recorded else (_OLD,)
        return wish.finding("changed", *reasons, version=versions[0].version)
    archived = next((v for v in versions if ARCHIVED in v.aliases), None)
    version = fitting[0]
    if archived is not None and archived in fitting:
        return wish.finding("archived", "it was retired, and comes back", version=archived.version)
    undecided = _undecided(version, bases.get(version.tags[TAG_BASE_URI]), is_archived=archived is not None)
    if undecided:
        return wish.finding("undecided", undecided, version=version.version)
    return wish.finding("present", version=version.version)


def _undecided(version: Version, base: Version | None, *, is_archived: bool) -> str:
    """What a run did not get to, or what became open again; nothing where all is decided."""
    if is_archived:
        return "it was retired, and an earlier version is wanted again"
    if TAG_DECISION not in version.tags:
        return "it is registered, and nobody has decided whether it comes into use"
    if base is None:
        return "its base is gone"
    if TAG_DECISION not in base.tags:
        return f"its base, version {base.version}, is not in use, and nobody has decided about it"
    return ""


def _retired(bases: Collection[str], held: Mapping[str, Sequence[Version]], wanted: Iterable[str]) -> list[Finding]:
    """Levels of the plans' bases that are in use, but in no plan."""
    findings = []
    for name, versions in held.items():
        newest = versions[0]
        base = newest.tags[TAG_BASE_URI].removeprefix("models:/").rpartition("/")[0]
        in_use = {CHAMPION, CHALLENGER} & {alias for v in versions for alias in v.aliases}
        if base in bases and name not in wanted and in_use:
            level = newest.tags[TAG_LEVEL]
            wish = Wish(plan="", base=base, level=level, name=name, made_from=None)
            findings.append(wish.finding("retired", "no plan has this level", version=newest.version))
    return findings
