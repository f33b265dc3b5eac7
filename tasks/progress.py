"""Live progress of fine-tunes: bars in a terminal, plain lines elsewhere.

A bar needs the process of the terminal; a fine-tune that runs in another process, or without a
terminal, logs a line at the end of every epoch and every half minute.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging import Logger

from prefect import get_run_logger
from prefect.exceptions import MissingContextError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from gearnn.errors import StoppedError
from gearnn.finetune import Progress as Position

_display: "Progress | None" = None
_overall: TaskID | None = None
_stop = threading.Event()
_SECONDS_BETWEEN_LINES = 30.0


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
    """Tell how many steps the run has."""
    if _display is not None and _overall is not None:
        _display.update(_overall, total=number)


def step_done(what: str) -> None:
    """Count one step of the run as done."""
    if _display is not None and _overall is not None:
        _display.update(_overall, advance=1, detail=f"done: {what}")


def request_stop() -> None:
    """Make every fine-tune of this process end at its next step; its last whole epoch stays on disk."""
    _stop.set()


@contextmanager
def stopping_work() -> Iterator[None]:
    """End fine-tunes at their next step when the flow is interrupted; Prefect itself only waits for them.

    Inside of a flow run Prefect takes SIGTERM, and raises what is no ``Exception``.
    """
    try:
        yield
    except Exception:
        raise
    except BaseException:
        request_stop()
        raise


def allow_start() -> None:
    """Forget an earlier request to stop."""
    _stop.clear()


def reporter(what: str) -> Callable[[Position], None]:
    """A callback for one fine-tune, such as ``full fine-tune jpeg:quality=10``.

    Raises, when it is called: StoppedError after :func:`request_stop`.
    """
    show = _bar(_display, what) if _display is not None else _lines(what)

    def report(position: Position) -> None:
        if _stop.is_set():
            raise StoppedError(f"{what}: stopped at step {position.step} of {position.num_steps}")
        show(position)

    return report


def counter(what: str) -> Callable[[int, int], None]:
    """A callback for work that is counted, such as frames: called with (done, in all); raises as a reporter does."""
    show = _counting_bar(_display, what) if _display is not None else _counting_lines(what)

    def count(done: int, total: int) -> None:
        if _stop.is_set():
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
