"""Is GearNN worth it? Every solution of section 4.2 at every level of a plan, as a table and a report."""

from collections.abc import Iterator, Sequence
from typing import Any

from prefect import flow, get_run_logger

from flows.contestants import Contestant, Seed
from flows.running.notify import HOOKS
from flows.running.runner import PlannedTaskRunner
from gearnn.evaluation import solutions
from gearnn.plan import Plan
from tasks.adapting.base import prepare_base
from tasks.adapting.data import check_data
from tasks.adapting.evaluate import evaluate_solution
from tasks.adapting.frames import distort_frames
from tasks.adapting.preflight import preflight
from tasks.benchmarking.benchmark import write_benchmark
from tasks.progress import expect_steps, stopping_work
from tasks.records import AdaptorFile, Base, Benchmarked, Data, Entrant, Failure, FrequencyMap, Measured, Network, Table


def benchmark(plan: Plan) -> Benchmarked:
    """Run a benchmark; see :func:`benchmark_flow`."""
    measured: Benchmarked = benchmark_flow(plan)
    return measured


@flow(name="benchmark", flow_run_name="benchmark {plan.registered_base}", task_runner=PlannedTaskRunner(), **HOOKS)
@stopping_work()
def benchmark_flow(plan: Plan) -> Benchmarked:
    """Train every solution for every seed, score them at every level, write the table and the report.

    Every step is done once per content, as in ``adapt``, whose steps these are where it has them. What
    cannot be trained or scored stands in the table with its reason; nothing is registered.
    """
    preflight(plan)
    data: Data = check_data.submit(plan).result()
    base: Base = prepare_base.submit(plan, data).result()
    distort_frames.submit(plan, base, data).result()
    seeds = [
        Seed(plan.model_copy(update={"seed": seed}), base, data, is_first=index == 0)
        for index, seed in enumerate(plan.benchmark.seeds or (plan.seed,))
    ]
    for phase in ("whole_networks", "single_networks", "tables", "adaptors", "bounds"):
        for seed in seeds:
            getattr(seed, phase)()
    contestants = [Contestant(plan, solutions.BASE, "", (), plan.levels)]
    contestants += [contestant for seed in seeds for contestant in seed.contestants]
    scores = [[_score(c, base, data, level) for level in c.tested] for c in contestants]
    maps = seeds[0].frequency_maps()
    expect_steps(sum(map(len, scores)) + len(maps) + len({id(step) for c in contestants for step in c.steps}))
    measured = [m for c, futures in zip(contestants, scores, strict=True) for m in _measured(c, futures)]
    tables = {f"sensitivities at {level}": _result(step) for level, step in seeds[0].tables_by_level.items()}
    drawn = {f"frequency response of {title}": _result(step) for title, step in maps.items()}
    gaps = {title: found for title, found in (tables | drawn).items() if isinstance(found, Failure)}
    written: Benchmarked = write_benchmark(
        plan,
        base,
        data,
        measured,
        [table for table in tables.values() if isinstance(table, Table)],
        [found for found in drawn.values() if isinstance(found, FrequencyMap)],
        gaps,
    )
    return written


def _score(contestant: Contestant, base: Base, data: Data, level: str) -> Any:
    trained = contestant.steps[-1] if contestant.steps else None
    return evaluate_solution.submit(contestant.plan, base, data, level, contestant.solution, trained)


def _measured(contestant: Contestant, scores: Sequence[Any]) -> Iterator[Measured]:
    """What a contestant scored at each of its levels, or why it did not."""
    results = [_result(step) for step in contestant.steps]
    failure = next((result for result in results if isinstance(result, Failure)), None)
    trained = results[-1] if results and not failure else None
    entrant = Entrant(
        solution=contestant.solution,
        setting=contestant.setting,
        trained=contestant.trained,
        seed=contestant.plan.seed,
        network=trained if isinstance(trained, Network) else None,
        adaptor=trained if isinstance(trained, AdaptorFile) else None,
        failure=failure,
    )
    for level, future in zip(contestant.tested, scores, strict=True):
        score = failure or _result(future)
        if isinstance(score, Failure):
            yield Measured(entrant=entrant, level=level, failure=score)
        else:
            yield Measured(entrant=entrant, level=level, score=score)


def _result(future: Any) -> Any:
    """What a step gave, or the :class:`Failure` that says why it gave nothing."""
    try:
        return future.result()
    except Exception as error:  # whatever a solution died of, the others go on
        get_run_logger().error("%s: %s", type(error).__name__, error)
        return Failure.of(error)
