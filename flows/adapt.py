"""The main job: Algorithm 1 for every level of a plan, from the base to registered adaptors."""

from collections.abc import Mapping, Sequence
from typing import Any

from prefect import flow, get_run_logger, unmapped

from flows.champions import register
from flows.running.notify import HOOKS
from flows.running.runner import PlannedTaskRunner
from gearnn.errors import LevelsFailedError
from gearnn.evaluation import solutions
from gearnn.levels import PRISTINE
from gearnn.plan import Plan
from tasks.adapting.base import prepare_base
from tasks.adapting.data import check_data
from tasks.adapting.evaluate import evaluate_solution
from tasks.adapting.finetune import full_finetune, partial_finetune
from tasks.adapting.frames import distort_frames
from tasks.adapting.knapsack import choose_layers
from tasks.adapting.portfolio import try_selections
from tasks.adapting.preflight import preflight
from tasks.adapting.sensitivity import measure_sensitivity
from tasks.progress import expect_steps, stopping_work
from tasks.records import Adapted, Base, Data, Row
from tasks.registering.report import write_report


def adapt(plan: Plan) -> Adapted:
    """Run a plan; see :func:`adapt_flow`."""
    adapted: Adapted = adapt_flow(plan)
    return adapted


@flow(name="adapt", flow_run_name="adapt {plan.registered_base}", task_runner=PlannedTaskRunner(), **HOOKS)
@stopping_work()
def adapt_flow(plan: Plan) -> Adapted:
    """Fine-tune the base per level, choose layers, fine-tune those, score, register, report.

    Every step is done once per content: a second run finds all in the store, one with another level
    trains that level only. A level that fails does not hold up the others; they are registered, and
    the run fails afterwards.

    Raises:
        LevelsFailedError: at least one level failed.
    """
    a_level = 8 + (plan.bound.select == "portfolio")
    expect_steps(5 + a_level * len(plan.distortion_levels))  # data, frames, base, its score, the control
    preflight(plan)
    data: Data = check_data.submit(plan).result()
    base: Base = prepare_base.submit(plan, data).result()
    distort_frames.submit(plan, base, data).result()
    levels = [str(level) for level in plan.distortion_levels]
    common = unmapped(plan), unmapped(base), unmapped(data)
    pristine, fulls, tables, selections, adaptors = algorithm1(plan, base, data)
    pristine_score = evaluate_solution.submit(plan, base, data, PRISTINE, solutions.BASE, None)
    scores = {
        solutions.BASE: evaluate_solution.map(*common, levels, solutions.BASE, None),
        solutions.CLEAN: evaluate_solution.map(*common, levels, solutions.CLEAN, unmapped(pristine)),
        solutions.FULL: evaluate_solution.map(*common, levels, solutions.FULL, fulls),
        solutions.ADAPTOR: evaluate_solution.map(*common, levels, solutions.ADAPTOR, adaptors),
    }
    try:
        pristine.result()
    except Exception as error:  # without the control nothing can be said of any level
        raise LevelsFailedError(f"pristine control: {type(error).__name__}: {error}") from error
    rows, failures = _gather(levels, scores, full=fulls, table=tables, selection=selections, adaptor=adaptors)
    gearbox = None
    if rows:
        rows, gearbox = register(plan, base, data, rows, failures)
    report = write_report(plan, base, data, pristine_score.result(), rows) if rows else ""
    if failures:
        registered = [row.registered for row in rows if row.registered is not None]
        raise LevelsFailedError("; ".join(f"{level}: {reason}" for level, reason in failures.items()), registered)
    return Adapted(
        base=base, data=data, pristine=pristine_score.result(), rows=tuple(rows), report=report, gearbox=gearbox
    )


def algorithm1(plan: Plan, base: Base, data: Data) -> tuple[Any, Any, Any, Any, Any]:
    """Submit Algorithm 1 for every distorted level of a plan.

    Returns:
        Futures of the pristine control, and in the levels' order of full fine-tunes, sensitivity tables, selections and
        adaptors.
    """
    levels = [str(level) for level in plan.distortion_levels]
    common = unmapped(plan), unmapped(base), unmapped(data)
    pristine, *fulls = full_finetune.map(*common, [PRISTINE, *levels])
    tables = measure_sensitivity.map(unmapped(plan), unmapped(base), fulls, unmapped(pristine))
    selections = choose_layers.map(unmapped(plan), unmapped(base), tables)
    if plan.bound.select == "portfolio":
        selections = try_selections.map(*common, tables, selections, fulls)
    return pristine, fulls, tables, selections, partial_finetune.map(*common, levels, selections, fulls)


@flow(name="adapt-level", flow_run_name="adapt {plan.registered_base} {level}", **HOOKS)
def adapt_level(plan: Plan, level: str) -> Adapted:
    """The main job for one level of a plan.

    Args:
        plan: the plan.
        level: one of its levels.

    Raises:
        PlanError: the plan has no such level.
        LevelsFailedError: it failed.
    """
    return adapt(plan.only([level]))


def _gather(
    levels: Sequence[str], scores: Mapping[str, Sequence[Any]], **steps: Sequence[Any]
) -> tuple[list[Row], dict[str, str]]:
    """Wait for all levels: rows of those that finished, reasons of those that did not."""
    rows, failures = [], {}
    for index, level in enumerate(levels):
        try:
            # In the order of the steps, so that the reason given is the first one.
            results = {name: futures[index].result() for name, futures in steps.items()}
            counted = {solution: futures[index].result() for solution, futures in scores.items()}
            rows.append(Row(level=level, scores=counted, **results))
        except Exception as error:  # whatever a level died of, the others go on
            failures[level] = f"{type(error).__name__}: {error}"
            get_run_logger().error("level %s failed: %s", level, error)
    return rows, failures
