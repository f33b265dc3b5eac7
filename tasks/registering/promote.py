"""Which of the registered adaptors come into use, by the plan's rule on its held-out split."""

from collections.abc import Mapping, Sequence

from prefect import get_run_logger, task

from gearnn import registry
from gearnn.evaluation import solutions
from gearnn.evaluation.solutions import PROMOTE
from gearnn.plan import Plan
from gearnn.plan.opened import Opened
from gearnn.registry import Promotion, Version
from gearnn.registry.names import CHAMPION, TAG_FIGURE, TAG_LEVEL, metric_name
from tasks.records import AdaptorFile, Registered, Row


@task(name="find rival", task_run_name="find rival of {row.level}")
def find_rival(plan: Plan, row: Row) -> AdaptorFile | None:
    """The adaptor in use at a level, if it must be scored again to be compared with the new one.

    None where there is none, it adapts another base, or its recorded score is of the same frames.
    """
    if row.registered is None:
        return None
    candidate = registry.get_version(row.registered.name, row.registered.version)
    champion = registry.aliased(candidate.name, CHAMPION)
    if champion is None or not registry.is_rival(champion, candidate):
        return None
    if registry.are_scored_alike(champion, candidate):
        return None
    adaptor = registry.load_adaptor(champion)
    file = Opened(plan).store.put(adaptor.to_bytes(), ".safetensors")
    return AdaptorFile(level=row.level, file=file, num_values=adaptor.num_values, epoch_losses=(), seconds=0.0)


@task(name="promote", task_run_name="promote {plan.registered_base}")
def put_into_use(
    plan: Plan, base: Registered, rows: Sequence[Row], held: Mapping[str, float]
) -> tuple[list[Registered], str]:
    """Give the alias ``champion`` to the base, and to every adaptor that deserves it.

    The base comes into use when every level in use has an adaptor of it. Whoever uses the registry
    meanwhile may meet the new base with an adaptor of the old one for a moment, which is refused;
    ``<base>.gearbox`` changes as one.

    Args:
        plan: its ``promotion`` is the rule.
        base: the base's version.
        rows: the levels whose adaptors are registered; others pass through.
        held: level -> score of the adaptor in use on the present frames, where that had to be found out.

    Returns:
        What became of every adaptor that was decided about, with the reason: those of the rows, and those of
        earlier runs that waited for the base; and what became of the base.
    """
    version = registry.get_version(base.name, base.version)
    ours = {row.registered.name for row in rows if row.registered is not None}
    everyone = registry.adaptors(base.name)
    candidates = [registry.get_version(r.registered.name, r.registered.version) for r in rows if r.registered]
    objection = _objection_to_base(plan, version, everyone)
    if objection:
        get_run_logger().warning("%s version %s %s", version.name, version.version, objection)
        return [_told(candidate, f"its base {objection}") for candidate in candidates], objection
    if CHAMPION not in version.aliases:
        candidates += _waiting(version, everyone, ours)
        registry.promote_base(version)
    return [_decided(plan, c, held.get(c.tags[TAG_LEVEL])) for c in candidates], "is champion"


@task(name="record decisions", task_run_name="record decisions {base.name}")
def record_decisions(base: Registered, about_base: str, decisions: Sequence[Registered]) -> None:
    """Keep with every version what became of it: a run that does not get here is taken up by a retraining."""
    for decision in decisions:
        registry.decided(decision.name, decision.version, decision.reason)
    registry.decided(base.name, base.version, about_base)


def _objection_to_base(plan: Plan, base: Version, everyone: Sequence[Version]) -> str:
    """Why the base does not come into use; nothing if it does, or is."""
    if CHAMPION in base.aliases:
        return ""
    if plan.promotion.rule == "manual":
        return "waits for people, by the plan's rule"
    lacking = registry.without_adaptor(base, everyone)
    return f"waits for adaptors of {', '.join(lacking)}, which are in use with another base" if lacking else ""


def _waiting(base: Version, everyone: Sequence[Version], ours: set[str]) -> list[Version]:
    """The newest adaptor of this base at every other level."""
    newest: dict[str, Version] = {}
    for version in everyone:
        if version.name not in ours and registry.is_of(version, base):
            newest.setdefault(version.name, version)
    return list(newest.values())


def _decided(plan: Plan, candidate: Version, held: float | None) -> Registered:
    figure = candidate.tags[TAG_FIGURE]
    over = metric_name(PROMOTE, solutions.BASE, figure) if plan.promotion.over_base else ""
    rule = Promotion(rule=plan.promotion.rule, margin=plan.promotion.margin, over=over)
    metric = metric_name(PROMOTE, solutions.ADAPTOR, figure)
    decision = registry.promote(candidate, metric, rule, held=held)
    return _told(candidate, decision.reason, decision.champion)


def _told(candidate: Version, reason: str, champion: Version | None = None) -> Registered:
    get_run_logger().info("%s version %s %s", candidate.name, candidate.version, reason)
    return Registered(
        level=candidate.tags[TAG_LEVEL],
        name=candidate.name,
        version=candidate.version,
        champion="" if champion is None else champion.version,
        reason=reason,
    )
