"""From registered adaptors to those in use: what each became, and the gearbox that holds the champions."""

from collections.abc import Sequence

from prefect import get_run_logger

from gearnn.evaluation.solutions import PROMOTE
from gearnn.plan import Plan
from gearnn.registry.names import CHAMPION
from tasks.adapting.evaluate import evaluate_solution
from tasks.records import Base, Data, Registered, Row
from tasks.registering.promote import find_rival, put_into_use, record_decisions
from tasks.registering.register import register_adaptor, register_base, register_gearbox


def register(
    plan: Plan, base: Base, data: Data, rows: Sequence[Row], failures: dict[str, str]
) -> tuple[list[Row], Registered | None]:
    """Register the base and its adaptors, and put those into use that the plan's rule prefers.

    What fails is added to ``failures``; its results are stored, and a later run, or a retraining, takes it up.

    Returns:
        The rows with their versions, and the base with all of its champions as one version; None where it has none.
    """
    registered_base = register_base(plan, base, data)
    done = []
    for row in rows:
        try:
            version = register_adaptor(plan, base, data, registered_base, row)
            done.append(row.model_copy(update={"registered": version}))
        except Exception as error:  # whatever a level died of, the others go on
            failures[row.level] = f"{type(error).__name__}: {error}"
            done.append(row)
    try:
        return _decide(plan, base, data, registered_base, done, failures)
    except Exception as error:
        failures["champions"] = f"{type(error).__name__}: {error}"
        return done, None


def _decide(
    plan: Plan, base: Base, data: Data, registered: Registered, rows: Sequence[Row], failures: dict[str, str]
) -> tuple[list[Row], Registered | None]:
    held = _held(plan, base, data, rows, failures)
    ready = [row for row in rows if row.level not in failures]
    decisions, about_base = put_into_use(plan, registered, ready, held)
    gearbox = register_gearbox(registered.name)
    record_decisions(registered, about_base, decisions)
    by_level = {decision.level: decision for decision in decisions}
    return [r.model_copy(update={"registered": by_level.get(r.level, r.registered)}) for r in rows], gearbox


def _held(plan: Plan, base: Base, data: Data, rows: Sequence[Row], failures: dict[str, str]) -> dict[str, float]:
    """Level -> score on the plan's frames of the adaptor in use, where its recorded score is of other frames."""
    scores = {}
    for row in rows:
        if (rival := find_rival(plan, row)) is not None:
            scores[row.level] = evaluate_solution.submit(plan, base, data, row.level, CHAMPION, rival)
    held = {}
    for level, score in scores.items():
        try:
            held[level] = float(score.result().values[PROMOTE])
        except Exception as error:  # this level stays as it is
            failures[level] = f"scoring the adaptor in use: {type(error).__name__}: {error}"
            get_run_logger().error("level %s: %s", level, failures[level])
    return held
