"""Where the steps of a flow run: in threads or processes of this machine, on a Dask cluster, or on Ray.

The plan says where, and how many at a time. A flow carries one :class:`PlannedTaskRunner`, so that a
run from the command line and a run of a deployment obey the plan alike.
"""

import multiprocessing
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any, Self

import torch
from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture, PrefectFutureList
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from gearnn.machine.slots import cores
from gearnn.plan import Plan
from tasks.progress import follow_parent, is_shown, step_done, stop_requested


def workers_for(plan: Plan) -> int:
    """Number of concurrent tasks: what the plan says, else one a GPU, or as many as the cores bear."""
    if plan.workers is not None:
        return plan.workers
    if plan.device.startswith("cuda:"):
        return 1
    if plan.device == "cuda" or (plan.device == "auto" and torch.cuda.is_available()):
        return max(1, torch.cuda.device_count())
    return max(1, len(cores()) // plan.threads)


class PlannedTaskRunner(TaskRunner[PrefectFuture[Any]]):
    """Starts the runner that the flow run's own plan names, at the first step that is submitted.

    Args:
        plan: default: the flow run's parameter ``plan``.
    """

    def __init__(self, plan: Plan | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._plan = plan
        self._runner: TaskRunner[Any] | None = None
        self._stack = ExitStack()

    def duplicate(self) -> Self:
        """A runner for another flow run."""
        return type(self)(self._plan)

    def __getstate__(self) -> dict[str, Any]:
        """Steps in other processes get to know the flow, and start nothing."""
        return {"_plan": self._plan}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As new."""
        self.__init__(state["_plan"])  # type: ignore[misc]

    def submit(
        self,
        task: Any,
        parameters: dict[str, Any],
        wait_for: Iterable[PrefectFuture[Any]] | None = None,
        dependencies: dict[str, set[Any]] | None = None,
    ) -> PrefectFuture[Any]:
        """Hand a step to the real runner.

        Raises:
            PlanError: the plan's cluster does not answer, or its package is not installed.
        """
        runner = self._started_runner()
        future: PrefectFuture[Any] = runner.submit(task, parameters, wait_for, dependencies)
        if is_shown() and not isinstance(runner, ThreadPoolTaskRunner):  # steps elsewhere cannot count themselves
            future.add_done_callback(lambda _: step_done(task.name))
        return future

    def map(
        self,
        task: Any,
        parameters: dict[str, Any],
        wait_for: Iterable[PrefectFuture[Any]] | None = None,
    ) -> PrefectFutureList[PrefectFuture[Any]]:
        """One step for each element of the parameters that are lists."""
        return super().map(task, parameters, wait_for)

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        """End the real runner, and what it started."""
        self._runner = None
        try:
            self._stack.close()
        finally:
            super().__exit__(exc_type, exc_value, traceback)

    def _started_runner(self) -> TaskRunner[Any]:
        if not self._started:
            raise RuntimeError("expected a runner that was started, as Prefect does for a flow run")
        if self._runner is None:
            self._runner = start(self._plan or _plan_here(), self._stack)
        return self._runner


def start(plan: Plan, stack: ExitStack) -> TaskRunner[Any]:
    """Start the runner that a plan names; it ends with the stack.

    Raises:
        PlanError: the plan's cluster does not answer, or its package is not installed.
    """
    number, where = workers_for(plan), plan.runner
    if where == "threads":
        return stack.enter_context(ThreadPoolTaskRunner(max_workers=number))
    if where == "processes":
        stop = multiprocessing.get_context("spawn").Event()
        runner = ProcessPoolTaskRunner(max_workers=number, initializer=follow_parent, initargs=(stop,))
        stack.enter_context(runner)
        stack.callback(lambda: stop.set() if stop_requested() else None)  # before the runner waits for its steps
        return runner
    from flows.running import clusters

    kind, _, address = where.partition("://")
    return (clusters.dask if kind == "dask" else clusters.ray)(address, number, stack)


def _plan_here() -> Plan:
    context = FlowRunContext.get()
    found = (context.parameters or {}).get("plan") if context is not None else None
    assert found is not None, "a flow with this runner has a parameter `plan`"
    return Plan.read(found, source="of the flow run") if isinstance(found, Mapping) else found
