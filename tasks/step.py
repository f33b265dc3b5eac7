"""A step: a function that is done once, and a Prefect task in a flow.

A step's key is the sha256 of its name, its version, and what it reads: digests of its inputs and the
plan's fields that matter to it. A finished step's record is kept in the plan's store under that key,
so that a repeated, extended or crashed run does only what is missing, wherever it runs.
"""

import functools
import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Generic, TypeVar

from prefect import Task, get_run_logger
from prefect.futures import PrefectFuture, PrefectFutureList
from prefect.states import Completed

from gearnn.errors import StoreError
from gearnn.machine.slots import leased
from gearnn.plan import Plan
from gearnn.plan.opened import Opened
from gearnn.store.storage import Store, digest_of
from tasks.progress import logger_here, step_done, stop_if_asked
from tasks.records import Record

R = TypeVar("R", bound=Record)
Reads = Callable[..., dict[str, Any]]
_SECONDS_BETWEEN_COPIES = 60.0


class Step(Generic[R]):
    """A function that is done once for what it reads, and the Prefect task that does it in a flow.

    Attributes:
        name: of the function; part of every key.
        version: raised when the step would give another result for the same inputs; part of every key.
        task: what a flow runs. Of a record that was there already it makes a state ``Cached``.
    """

    def __init__(
        self, do: Callable[..., R], *, version: int, reads: Reads, label: str, computes: bool, resumes: bool
    ) -> None:
        self.name, self.version = do.__name__, version
        self._what = self.name.replace("_", " ")
        self._do, self._reads, self._computes, self._resumes = do, reads, computes, resumes
        self._record_type: type[R] = inspect.signature(do).return_annotation
        self.task = self._as_task(label)

    def key(self, opened: Opened, *args: Any, **kwargs: Any) -> str:
        """sha256 of the step's name, its version and what it reads."""
        return digest_of({"step": self.name, "version": self.version, "reads": self._reads(opened, *args, **kwargs)})

    def known(self, opened: Opened, *args: Any, **kwargs: Any) -> R | None:
        """The record, where the step is done already."""
        return self._recalled(opened.store, self.key(opened, *args, **kwargs))

    def run(self, opened: Opened, *args: Any, **kwargs: Any) -> R:
        """The record; does the step where there is none."""
        return self._run(opened, *args, **kwargs)[0]

    def submit(self, *args: Any, **kwargs: Any) -> PrefectFuture[R]:
        """As :meth:`prefect.Task.submit`."""
        future: PrefectFuture[R] = self.task.submit(*args, **kwargs)
        return future

    def map(self, *args: Any, **kwargs: Any) -> PrefectFutureList[R]:
        """As :meth:`prefect.Task.map`."""
        futures: PrefectFutureList[R] = self.task.map(*args, **kwargs)
        return futures

    def _run(self, opened: Opened, *args: Any, **kwargs: Any) -> tuple[R, str]:
        """The record, and its key where it was there already."""
        stop_if_asked(self._what)
        key, store = self.key(opened, *args, **kwargs), opened.store
        known = self._recalled(store, key)
        if known is None:
            with device_of(opened, self._what) if self._computes else nullcontext():
                if self._computes:
                    known = self._recalled(store, key)  # another run may have done it while this one waited
                record = known or self._done(store, key, opened, *args, **kwargs)
        step_done(self._what)
        return (record, "") if known is None else (known, key)

    def _recalled(self, store: Store, key: str) -> R | None:
        known = store.recall(self.name, key)
        return None if known is None else self._record_type.model_validate(known)

    def _done(self, store: Store, key: str, *args: Any, **kwargs: Any) -> R:
        if self._resumes:
            kwargs["scratch"] = store.scratch(f"{self.name}-{key}.pt")
            store.fetch_kept(kwargs["scratch"])
        record = self._do(*args, **kwargs)
        store.remember(self.name, key, record.model_dump(mode="json"))
        if self._resumes:
            store.drop(kwargs["scratch"])
        return record

    def _as_task(self, label: str) -> Task[..., R]:
        @functools.wraps(self._do)
        def in_flow(plan: Plan, *args: Any, **kwargs: Any) -> Any:
            record, key = self._run(Opened(plan), *args, **kwargs)
            if not key:
                return record
            get_run_logger().info("already done, found in the store (key %s)", key[:12])
            return Completed(name="Cached", message="already done, found in the store", data=record)

        own = inspect.signature(self._do)
        _, *others = (parameter for parameter in own.parameters.values() if parameter.name != "scratch")
        plan = inspect.Parameter("plan", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Plan)
        in_flow.__signature__ = own.replace(parameters=[plan, *others])  # type: ignore[attr-defined]
        return Task(in_flow, name=self._what, task_run_name=label, persist_result=False, log_prints=None)


def step(
    *, version: int, reads: Reads, label: str, computes: bool = False, resumes: bool = False
) -> Callable[[Callable[..., R]], Step[R]]:
    """Make a function a step. Its first parameter is the plan, opened, and its return annotation the record's type.

    The Prefect task is given the plan itself, which can be sent to another machine.

    Args:
        version: see :class:`Step`.
        reads: called with the step's arguments; gives the JSON values that decide its result.
        label: name of a task run, with the step's parameters in braces.
        computes: whether it runs networks, and so needs a device for itself as long as it is not done already.
        resumes: whether it goes on where it was stopped: it is given ``scratch``, a path that stays the same
            until it is done, for what must survive a crash.
    """
    return lambda do: Step(do, version=version, reads=reads, label=label, computes=computes, resumes=resumes)


def keeper(store: Store) -> Callable[[Path], None]:
    """A callback for a fine-tune's checkpoints: into the store, at most once a minute.

    A store that does not answer costs no training; the checkpoint stays on this machine.
    """
    last = time.monotonic()

    def keep(scratch: Path) -> None:
        nonlocal last
        if time.monotonic() - last < _SECONDS_BETWEEN_COPIES:
            return
        last = time.monotonic()
        try:
            store.keep(scratch)
        except StoreError as error:
            logger_here().warning("the last epoch is kept on this machine only: %s", error)

    return keep


@contextmanager
def device_of(opened: Opened, what: str) -> Iterator[None]:
    """Have the plan's device for oneself while the context lasts: one GPU, or the cores of the plan's threads.

    Raises:
        PlanError: this machine has no such device.
        StoppedError: somebody asked the run to stop while it waited.
    """

    def log_wait(wanted: str) -> None:
        logger_here().info("%s waits for %s", what, wanted)

    plan = opened.plan
    with leased(plan.device, plan.threads, on_wait=log_wait, check=lambda: stop_if_asked(what)):
        _ = opened.compute  # gives this thread its number of torch threads
        yield
