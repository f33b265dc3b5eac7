"""The decorator that makes a function a step: a Prefect task that is done once.

A step's key is the sha256 of its name, its version, and what it reads: digests of its inputs and the
plan's fields that matter to it. A finished step's record is kept in the plan's store under that key,
so that a repeated, extended or crashed run does only what is missing, wherever it runs.
"""

import functools
import inspect
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

from prefect import get_run_logger, task
from prefect.context import TaskRunContext
from prefect.states import Completed

from gearnn.errors import StoreError
from gearnn.machine.slots import leased
from gearnn.plan import Plan
from gearnn.plan.resolve import compute_of
from gearnn.store.storage import Store, digest_of
from tasks.progress import logger_here, step_done, stop_if_asked
from tasks.records import Record

R = TypeVar("R", bound=Record)
_SECONDS_BETWEEN_COPIES = 60.0


def step(
    *, version: int, reads: Callable[..., dict[str, Any]], label: str, computes: bool = False
) -> Callable[[Callable[..., R]], Any]:
    """Make a function a step.

    The function's first parameter is the plan, and its return annotation the record's type. If it
    has a parameter ``scratch``, that is filled with a path that stays the same until the step is
    done, for what must survive a crash. ``task.fn.is_done(plan, ...)`` says whether there is a record,
    ``task.fn.known(plan, ...)`` gives it or None, and ``task.fn.version`` is the step's version.

    Args:
        version: raised when the step would give another result for the same inputs.
        reads: called with the step's arguments; gives the JSON values that decide its result.
        label: name of a task run, with the step's parameters in braces.
        computes: whether it runs networks, and so needs a device for itself as long as it is not done already.
    """

    def decorate(function: Callable[..., R]) -> Any:
        name = function.__name__
        what = name.replace("_", " ")
        signature = inspect.signature(function)
        record_type: type[R] = signature.return_annotation
        resumes = "scratch" in signature.parameters
        visible = [p for p in signature.parameters.values() if p.name != "scratch"]

        def key_of(plan: Plan, *args: Any, **kwargs: Any) -> str:
            return digest_of({"step": name, "version": version, "reads": reads(plan, *args, **kwargs)})

        def is_done(plan: Plan, *args: Any, **kwargs: Any) -> bool:
            return known_record(plan, *args, **kwargs) is not None

        def known_record(plan: Plan, *args: Any, **kwargs: Any) -> R | None:
            known = Store(plan.store).recall(name, key_of(plan, *args, **kwargs))
            return None if known is None else record_type.model_validate(known)

        def do(plan: Plan, store: Store, key: str, *args: Any, **kwargs: Any) -> R:
            if resumes:
                kwargs["scratch"] = store.scratch(f"{name}-{key}.pt")
                store.fetch_kept(kwargs["scratch"])
            record = function(plan, *args, **kwargs)
            store.remember(name, key, record.model_dump(mode="json"))
            if resumes:
                store.drop(kwargs["scratch"])
            return record

        @functools.wraps(function)
        def once(plan: Plan, *args: Any, **kwargs: Any) -> Any:
            stop_if_asked(what)
            key, store = key_of(plan, *args, **kwargs), Store(plan.store)
            known = store.recall(name, key)
            with device_of(plan, what) if known is None and computes else nullcontext():
                known = known or store.recall(name, key)  # another run may have done it while this one waited
                record = do(plan, store, key, *args, **kwargs) if known is None else record_type.model_validate(known)
            step_done(what)
            return record if known is None else _cached(record, key)

        once.is_done = is_done  # type: ignore[attr-defined]
        once.known = known_record  # type: ignore[attr-defined]
        once.version = version  # type: ignore[attr-defined]
        once.__signature__ = signature.replace(parameters=visible)  # type: ignore[attr-defined]
        return task(once, name=what, task_run_name=label, persist_result=False)

    return decorate


def keeper(plan: Plan) -> Callable[[Path], None]:
    """A callback for a fine-tune's checkpoints: into the store, at most once a minute.

    A store that does not answer costs no training; the checkpoint stays on this machine.
    """
    store, last = Store(plan.store), time.monotonic()

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
def device_of(plan: Plan, what: str) -> Iterator[None]:
    """Have the plan's device for oneself while the context lasts: one GPU, or the cores of the plan's threads.

    Raises:
        PlanError: this machine has no such device.
        StoppedError: somebody asked the run to stop while it waited.
    """

    def log_wait(wanted: str) -> None:
        logger_here().info("%s waits for %s", what, wanted)

    with leased(plan.device, plan.threads, on_wait=log_wait, check=lambda: stop_if_asked(what)):
        compute_of(plan)  # gives this thread its number of torch threads
        yield


def _cached(record: R, key: str) -> Any:
    """The record, and in a task run a state that says that nothing was done for it."""
    if TaskRunContext.get() is None:
        return record
    get_run_logger().info("already done, found in the store (key %s)", key[:12])
    return Completed(name="Cached", message="already done, found in the store", data=record)


def written(write: Callable[[Path], None], suffix: str) -> bytes:
    """What a library function writes to a file, as bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"content{suffix}"
        write(path)
        return path.read_bytes()
