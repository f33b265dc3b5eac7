"""An undistorted base for users who have none: trained on the plan's pristine frames, and exported."""

from pathlib import Path

from prefect import flow

from flows.running.notify import HOOKS
from flows.running.runner import PlannedTaskRunner
from gearnn.errors import PlanError
from gearnn.evaluation import solutions
from gearnn.levels import PRISTINE
from gearnn.plan import Plan
from tasks.adapting.base import export_base, output_of, prepare_base
from tasks.adapting.data import check_data
from tasks.adapting.evaluate import evaluate_solution
from tasks.adapting.preflight import preflight
from tasks.progress import stopping_work
from tasks.records import Base, Data, Score, TrainedBase
from tasks.registering.register import register_base


@flow(name="train-base", flow_run_name="train base {plan.registered_base}", task_runner=PlannedTaskRunner(), **HOOKS)
@stopping_work()
def train_base(plan: Plan, output: str | None = None) -> TrainedBase:
    """Train the base of a plan, score it on pristine frames, register it.

    Args:
        plan: its ``base.train`` says how.
        output: file to write the base to, as safetensors with the normalisation in its header.

    Raises:
        PlanError: the plan does not say how to train one.
        OutputError: the file would take the place of one that GearNN did not write.
    """
    if plan.base.train is None:
        raise PlanError("plan: base.train: expected how to train the base, but the plan names a checkpoint only")
    if output is not None:
        output_of(plan, Path(output))
    preflight(plan)
    data: Data = check_data.submit(plan).result()
    base: Base = prepare_base.submit(plan, data).result()
    score: Score = evaluate_solution.submit(plan, base, data, PRISTINE, solutions.BASE, None).result()
    registered = register_base(plan, base, data)
    if output is not None:
        export_base(plan, base, Path(output))
    return TrainedBase(base=base, score=score, registered=registered, output=output)
