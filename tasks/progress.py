"""Live progress of fine-tunes: bars in a terminal, plain lines elsewhere.

A bar needs the process of the terminal; a fine-tune that runs in another process, or without a
terminal, logs a line at the end of every epoch and every half minute.
"""

import functools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging import Logger
from typing import Any, ParamSpec, TypeVar

from prefect import get_run_logger
from prefect.exceptions import MissingContextError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from gearnn.errors import StoppedError
from gearnn.finetune import Progress as Position
from tasks.published import publisher

_display: "Progress | None" = None
_overall: TaskID | None = None
_stop = threading.Event()
_SECONDS_BETWEEN_LINES = 30.0
_SECONDS_BETWEEN_LOOKS = 1.0

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def bars(console: Console) -> Iterator[None]:
    """Show the fine-tunes of this process as bars while the context lasts."""
    global _display, _overall
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description:<44}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
        console=console,
    ) as display:
        _display, _overall = display, display.add_task("steps of this run", total=None, detail="")
        try:
            yield
        finally:
            _display = _overall = None


def expect_steps(number: int) -> None:
    """Set how many steps the run has."""
    if _display is not None and _overall is not None:
        _display.update(_overall, total=number)


def is_shown() -> bool:
    """Whether there is a bar that counts steps in this process."""
    return _display is not None


def step_done(what: str) -> None:
    """Count one step of the run as done."""
    if _display is not None and _overall is not None:
        _display.update(_overall, advance=1, detail=f"done: {what}")


def request_stop() -> None:
    """Make every fine-tune of this process end at its next step; its last whole epoch stays on disk."""
    _stop.set()


def stop_requested() -> bool:
    """Whether this process was asked to stop, or Dask no longer wants what the calling thread computes."""
    return _stop.is_set() or _is_cancelled_by_dask()


def stop_if_asked(what: str) -> None:
    """Do nothing, or end what is going on.

    Raises:
        StoppedError: somebody asked for it.
    """
    if stop_requested():
        raise StoppedError(f"{what}: stopped before it began")


def stopping_work() -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a flow end its fine-tunes at their next step when it is interrupted; Prefect itself only waits for them.

    Inside of a flow run Prefect takes SIGTERM, and raises what is no ``Exception``.
    """

    def decorate(flow: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(flow)
        def stopping(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return flow(*args, **kwargs)
            except Exception:
                raise
            except BaseException:
                request_stop()
                raise

        return stopping

    return decorate


def follow_parent(stop: Any) -> None:
    """In a process of a pool: stop when the parent says so, and end at once when it is no more.

    Ctrl-C in a terminal reaches every process of a group; the parent's word decides here.

    Args:
        stop: an event of ``multiprocessing``.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None, "only processes of a pool follow"

    def watch() -> None:
        while not stop.wait(_SECONDS_BETWEEN_LOOKS):
            if not parent.is_alive():
                os._exit(1)  # files are never seen half-written, and the last whole epoch is on disk
        request_stop()
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="follow parent", daemon=True).start()


def _is_cancelled_by_dask() -> bool:
    """Whether the calling thread is a Dask worker's, and its client has cancelled the task or is gone."""
    distributed = sys.modules.get("distributed.worker")
    key = getattr(distributed.thread_state, "key", None) if distributed is not None else None
    if distributed is None or key is None:
        return False
    known = distributed.get_worker().state.tasks.get(key)
    return known is None or known.state in ("cancelled", "resumed")


def allow_start() -> None:
    """Forget an earlier request to stop."""
    _stop.clear()


def reporter(what: str) -> Callable[[Position], None]:
    """A callback for one fine-tune, such as ``full fine-tune jpeg:quality=10``.

    Raises, when it is called: StoppedError after :func:`request_stop`.
    """
    show = _bar(_display, what) if _display is not None else _lines(what)
    publish = publisher(what)

    def report(position: Position) -> None:
        if stop_requested():
            raise StoppedError(f"{what}: stopped at step {position.step} of {position.num_steps}")
        show(position)
        trouble = publish(position)
        if trouble:
            logger_here().warning("%s", trouble)

    return report


def counter(what: str) -> Callable[[int, int], None]:
    """A callback for work that is counted, such as frames: called with (done, in all); raises as a reporter does."""
    show = _counting_bar(_display, what) if _display is not None else _counting_lines(what)

    def count(done: int, total: int) -> None:
        if stop_requested():
            raise StoppedError(f"{what}: stopped at {done} of {total}")
        show(done, total)

    return count


def _counting_bar(display: Progress, what: str) -> Callable[[int, int], None]:
    bar = display.add_task(what, total=None, detail="")
    started = time.monotonic()

    def show(done: int, total: int) -> None:
        left = (time.monotonic() - started) / done * (total - done)
        display.update(bar, completed=done, total=total, detail="done" if done == total else f"{_duration(left)} left")

    return show


def _counting_lines(what: str) -> Callable[[int, int], None]:
    logger = logger_here()
    started = last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last > _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            logger.info("%s: %d of %d, %s left", what, done, total, _duration((last - started) / done * (total - done)))

    return show


def _bar(display: Progress, what: str) -> Callable[[Position], None]:
    bar: TaskID | None = None

    def show(position: Position) -> None:
        nonlocal bar
        if bar is None:
            bar = display.add_task(what, total=position.num_steps, detail="")
        detail = (
            f"epoch {position.epoch}/{position.num_epochs}  loss {position.loss:.4f}  "
            f"{_duration(position.seconds_left)} left"
        )
        display.update(bar, completed=position.step, detail=detail)
        if position.step == position.num_steps:
            display.update(bar, detail=f"loss {position.loss:.4f}  done")

    return show


def _lines(what: str) -> Callable[[Position], None]:
    logger = logger_here()
    last = time.monotonic()

    def show(position: Position) -> None:
        nonlocal last
        ends_epoch = position.step * position.num_epochs % position.num_steps == 0
        if ends_epoch or time.monotonic() - last > _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            logger.info(
                "%s: epoch %d of %d, step %d of %d, loss %.4f, %s left",
                what,
                position.epoch,
                position.num_epochs,
                position.step,
                position.num_steps,
                position.loss,
                _duration(position.seconds_left),
            )

    return show


def logger_here() -> Logger:
    """The logger of the running task, or the library's outside of one."""
    try:
        return get_run_logger()  # type: ignore[return-value]
    except MissingContextError:
        import logging

        return logging.getLogger("gearnn")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
