"""Which of the registered adaptors come into use, by the plan's rule on its held-out split."""

from collections.abc import Sequence

from prefect import get_run_logger, task

from gearnn import registry
from gearnn import vocabulary as words
from gearnn.plan import Plan
from gearnn.registry import Decision, Promotion, Version
from gearnn.storage import Store
from tasks.evaluate import evaluate_solution
from tasks.records import AdaptorFile, Base, Data, Registered, Row


@task(name="promote", task_run_name="promote {plan.registered_base}")
def put_into_use(plan: Plan, base: Base, data: Data, registered: Registered, rows: Sequence[Row]) -> list[Row]:
    """Give the alias ``champion`` to the base, and to every adaptor that deserves it.

    Whoever uses the registry meanwhile may meet the new base with an adaptor of the old one for a moment,
    which is refused; ``<base>.gearbox`` changes as one.

    Args:
        plan: its ``promotion`` is the rule.
        base: D.
        data: the checked frames; versions are compared on the split ``promote``.
        registered: the base's version.
        rows: the levels whose adaptors are registered; others pass through.

    Returns:
        The rows, with the champion of each level and why it is that one.
    """
    decisions = {}
    for row in rows:
        if row.registered is not None:
            candidate = registry.get_version(row.registered.name, row.registered.version)
            decisions[row.level] = candidate, _held(plan, base, data, row, candidate)
    registry.promote_base(registry.get_version(registered.name, registered.version))
    return [_decided(plan, row, *decisions[row.level]) if row.level in decisions else row for row in rows]


def _decided(plan: Plan, row: Row, candidate: Version, held: float | None) -> Row:
    figure = row.scores[words.ADAPTOR].figure
    over = words.metric_name(words.PROMOTE, words.BASE, figure) if plan.promotion.over_base else ""
    rule = Promotion(rule=plan.promotion.rule, margin=plan.promotion.margin, over=over)
    metric = words.metric_name(words.PROMOTE, words.ADAPTOR, figure)
    decision: Decision = registry.promote(candidate, metric, rule, held=held)
    get_run_logger().info("%s version %s %s", candidate.name, candidate.version, decision.reason)
    assert row.registered is not None, "only registered rows are decided about"
    champion = "" if decision.champion is None else decision.champion.version
    changed = row.registered.model_copy(update={"champion": champion, "reason": decision.reason})
    return row.model_copy(update={"registered": changed})


def _held(plan: Plan, base: Base, data: Data, row: Row, candidate: Version) -> float | None:
    """What the present champion scores on the plan's held-out split, where its recorded score is of other frames."""
    champion = registry.aliased(candidate.name, words.CHAMPION)
    if champion is None or not registry.is_rival(champion, candidate):
        return None
    if registry.are_scored_alike(champion, candidate):
        return None
    adaptor = registry.load_adaptor(champion)
    file = Store(plan.store).put(adaptor.to_bytes(), ".safetensors")
    trained = AdaptorFile(level=row.level, file=file, num_values=adaptor.num_values, epoch_losses=(), seconds=0.0)
    score = evaluate_solution.fn(plan, base, data, row.level, words.CHAMPION, trained)
    score = getattr(score, "data", score)  # a step that was done before gives a state
    return float(score.values[words.PROMOTE])
