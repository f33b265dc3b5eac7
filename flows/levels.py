"""Which of a plan's levels need an adaptor of their own."""

import math

from prefect import flow

from flows.adapt import algorithm1
from flows.running.notify import HOOKS
from flows.running.runner import PlannedTaskRunner
from gearnn.errors import DataError
from gearnn.evaluation import solutions
from gearnn.evaluation.gears_needed import Served, fewest_gears
from gearnn.evaluation.solutions import PROMOTE
from gearnn.levels import DistortionLevel
from gearnn.plan import Plan
from tasks.adapting.base import prepare_base
from tasks.adapting.data import check_data
from tasks.adapting.evaluate import evaluate_solution
from tasks.adapting.frames import distort_frames
from tasks.adapting.preflight import preflight
from tasks.progress import stopping_work
from tasks.records import Base, Data


def needed_levels(plan: Plan, regret: float) -> list[Served]:
    """Find them; see :func:`levels_flow`."""
    served: list[Served] = levels_flow(plan, regret)
    return served


@flow(name="levels", flow_run_name="levels {plan.registered_base}", task_runner=PlannedTaskRunner(), **HOOKS)
@stopping_work()
def levels_flow(plan: Plan, regret: float) -> list[Served]:
    """Adapt to every level, score every adaptor at every level of its kind, and find the fewest that are needed.

    Scores are those on the split ``promote``, so that nothing is chosen on frames that are reported. Steps are those
    of ``adapt``; nothing is registered.

    Args:
        plan: the plan.
        regret: points that a level may lose against its own adaptor.
    """
    preflight(plan)
    data: Data = check_data.submit(plan).result()
    base: Base = prepare_base.submit(plan, data).result()
    distort_frames.submit(plan, base, data).result()
    levels = list(plan.distortion_levels)
    *_, adaptors = algorithm1(plan, base, data)
    futures = {}
    for level in levels:
        futures[DistortionLevel(), level] = evaluate_solution.submit(plan, base, data, str(level), solutions.BASE, None)
        for gear, adaptor in zip(levels, adaptors, strict=True):
            if gear.kind == level.kind:
                futures[gear, level] = evaluate_solution.submit(
                    plan, base, data, str(level), solutions.ADAPTOR, adaptor
                )
    scores = {pair: future.result().values[PROMOTE] for pair, future in futures.items()}
    unknown = next((pair for pair, score in scores.items() if math.isnan(score)), None)
    if unknown is not None:
        gear, level = unknown
        raise DataError(
            f"levels: expected a score of every adaptor on {plan.data.splits.promote}, but that of {gear} at {level} "
            f"is undefined, because no frame there has truth"
        )
    return fewest_gears(levels, scores, regret)
