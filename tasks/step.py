"""The decorator that makes a function a step: a Prefect task that is done once.

A step's key is the sha256 of its name, its version, and what it reads: digests of its inputs and the
plan's fields that matter to it. A finished step's record is kept in the plan's store under that key,
so that a repeated, extended or crashed run does only what is missing, wherever it runs.
"""

import functools
import inspect
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from prefect import get_run_logger, task
from prefect.context import TaskRunContext
from prefect.states import Completed

from gearnn.plan import Plan
from gearnn.storage import Store, digest_of
from tasks.progress import step_done
from tasks.records import Record

R = TypeVar("R", bound=Record)


def step(*, version: int, reads: Callable[..., dict[str, Any]], label: str) -> Callable[[Callable[..., R]], Any]:
    """Make a function a step.

    The function's first parameter is the plan, and its return annotation the record's type. If it
    has a parameter ``scratch``, that is filled with a path that stays the same until the step is
    done, for what must survive a crash. ``task.fn.is_done(plan, ...)`` tells whether there is a record.

    Args:
        version: raised when the step would give another result for the same inputs.
        reads: called with the step's arguments; gives the JSON values that decide its result.
        label: name of a task run, with the step's parameters in braces.
    """

    def decorate(function: Callable[..., R]) -> Any:
        name = function.__name__
        signature = inspect.signature(function)
        record_type: type[R] = signature.return_annotation
        resumes = "scratch" in signature.parameters
        visible = [p for p in signature.parameters.values() if p.name != "scratch"]

        def key_of(plan: Plan, *args: Any, **kwargs: Any) -> str:
            return digest_of({"step": name, "version": version, "reads": reads(plan, *args, **kwargs)})

        def is_done(plan: Plan, *args: Any, **kwargs: Any) -> bool:
            return Store(plan.store).recall(name, key_of(plan, *args, **kwargs)) is not None

        @functools.wraps(function)
        def once(plan: Plan, *args: Any, **kwargs: Any) -> Any:
            key = key_of(plan, *args, **kwargs)
            store = Store(plan.store)
            known = store.recall(name, key)
            if known is None:
                if resumes:
                    kwargs["scratch"] = store.scratch(f"{name}-{key}.pt")
                record = function(plan, *args, **kwargs)
                store.remember(name, key, record.model_dump(mode="json"))
                if resumes:
                    kwargs["scratch"].unlink(missing_ok=True)
            step_done(name.replace("_", " "))
            return record if known is None else _cached(record_type.model_validate(known), key)

        once.is_done = is_done  # type: ignore[attr-defined]
        once.__signature__ = signature.replace(parameters=visible)  # type: ignore[attr-defined]
        return task(once, name=name.replace("_", " "), task_run_name=label, persist_result=False)

    return decorate


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
