"""What stops a run before anything is trained: the machine, the servers, the store, and the plan itself."""

from collections.abc import Callable
from contextlib import nullcontext
from importlib.util import find_spec

from prefect import task
from prefect.context import FlowRunContext
from torch import nn

from gearnn.errors import PlanError, StoreError
from gearnn.levels import DistortionLevel
from gearnn.plan import Plan
from gearnn.plan.opened import Opened
from gearnn.plan.preflight import check_bound, check_device, check_disk, check_levels, check_network, check_sizes
from gearnn.registry.servers import check_mlflow, check_writable
from tasks.adapting.base import prepare_base
from tasks.adapting.data import check_data
from tasks.adapting.finetune import full_finetune
from tasks.prefect_server import check_prefect
from tasks.step import device_of

_passed: set[str] = set()
"""Plans, as JSON, of which this process knows that they fit together."""


@task(name="preflight", task_run_name="preflight {plan.registered_base}", persist_result=False)
def preflight(plan: Plan) -> None:
    """The first step of a flow, in the flow's own process: a run on a worker fails in one line before it trains.

    Frames are looked at one by one in the next step. What the command line has found right is not tried again.

    Raises:
        GearNNError: what is wrong.
    """
    check_plan(plan, with_frames=False)


def check_plan(plan: Plan, *, with_frames: bool = True, say: Callable[[str], None] = lambda _: None) -> None:
    """Everything that can be known of a plan here before it runs.

    Args:
        plan: the plan.
        with_frames: read all frames and labels.
        say: called with what goes on.

    Raises:
        GearNNError: what is wrong, in one line.
    """
    check_surroundings(plan)
    if plan.model_dump_json() in _passed:
        return
    opened = Opened(plan)
    base = opened.base(say)
    check_bound(plan, base)
    check_sizes(opened)
    if with_frames:
        say(f"checking the frames of {plan.data.name} ...")
        opened = Opened(plan)  # the step looks at copies of remote frames anew
        check_data.run(opened)
    check_levels(opened)
    check_space(opened, base)
    ours = Opened(where_it_computes(plan))
    on_gpu = ours.compute.device.type == "cuda"  # which others may be using to their limits
    with device_of(ours, "preflight") if on_gpu else nullcontext():
        check_network(ours)
    _passed.add(plan.model_dump_json())


def check_surroundings(plan: Plan) -> None:
    """What may change from one run to the next: the packages, the device, the servers, the store.

    Raises:
        GearNNError: what is wrong.
    """
    check_runner(plan)
    check_device(where_it_computes(plan), _worker())
    check_prefect()
    check_mlflow()
    check_writable(plan.registered_base)
    Opened(plan).store.check()


def check_runner(plan: Plan) -> None:
    """Look for what brings Dask or Ray into Prefect; where the steps run is not asked.

    Raises:
        PlanError: the extra that is not installed.
    """
    kind = plan.runner.partition("://")[0]
    if kind in ("dask", "ray") and find_spec(f"prefect_{kind}") is None:
        raise PlanError(f"plan: runner: {kind} is not installed; pip install 'gearnn[{kind}]'")


def check_space(opened: Opened, base: nn.Module) -> int:
    """Compare what a plan needs with what the disk has; what is in the store is looked up only where it matters.

    Returns:
        About how many bytes the plan takes, at most.

    Raises:
        StoreError: the rest of the plan does not fit.
    """
    try:
        return check_disk(opened, base)
    except StoreError:
        return check_disk(opened, base, _done(opened))


def _done(opened: Opened) -> list[DistortionLevel]:
    """Levels whose full fine-tune is in the store."""
    data = check_data.known(opened)
    base = None if data is None else prepare_base.known(opened, data)
    if base is None:
        return []
    levels = opened.plan.distortion_levels
    return [level for level in levels if full_finetune.known(opened, base, data, str(level)) is not None]


def where_it_computes(plan: Plan) -> Plan:
    """On a cluster elsewhere the plan's device is there, and this machine tries with what it has."""
    return plan.model_copy(update={"device": "auto"}) if "://" in plan.runner else plan


def _worker() -> str:
    context = FlowRunContext.get()
    pool = getattr(context.flow_run, "work_pool_name", None) if context is not None else None
    return f"a worker of the work pool {pool}" if pool else ""
