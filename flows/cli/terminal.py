"""What every command shares: settings, errors as one line with an exit status, progress, tables."""

import logging
import os
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from gearnn.errors import GearNNError

console = Console()
_errors = Console(stderr=True)


@contextmanager
def running() -> Iterator[None]:
    """Settings of every command, and errors as one line with an exit status."""
    try:
        _configure()
        yield
    except typer.Exit:
        raise
    except GearNNError as error:
        fail(str(error))
        raise typer.Exit(error.exit_status) from None
    except KeyboardInterrupt:
        fail("stopped; what was finished is stored, and the same command goes on from there")
        raise typer.Exit(130) from None
    except Exception as error:
        if os.environ.get("GEARNN_DEBUG"):
            raise
        reason = " ".join(str(error).split())[:300]
        fail(f"{type(error).__name__}: {reason} (GEARNN_DEBUG=1 shows where)")
        raise typer.Exit(1) from None


def _configure() -> None:
    """Prefect and MLflow for one machine without servers, where the environment says nothing else."""
    from gearnn.store.files import home

    defaults = {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL" if console.is_terminal else "INFO",
    }
    if str(Path.cwd()) not in sys.path:  # for modules that a plan names; last, so that it shadows nothing
        sys.path.append(str(Path.cwd()))
    if "PREFECT_API_URL" not in os.environ:
        defaults["PREFECT_HOME"] = str(home() / "prefect")
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    with suppress(OSError):  # commands that write nothing run in folders that may not be written to
        Path(os.environ.get("PREFECT_HOME", Path.home() / ".prefect")).mkdir(parents=True, exist_ok=True)
    logger = logging.getLogger("gearnn")  # downloads, and work in threads that Prefect does not know
    if not logger.handlers:
        logger.addHandler(RichHandler(console=_errors, show_time=False, show_level=False, show_path=False))
        logger.setLevel(logging.INFO)


def preflight_data(plan: Any) -> None:
    """Find what is wrong with a plan's frames, levels and store."""
    from gearnn.plan.opened import Opened
    from gearnn.plan.preflight import check_levels
    from tasks.adapting.data import check_data

    opened = Opened(plan)
    opened.store.check()
    console.print(f"checking the frames of {plan.data.name} ...", highlight=False)
    check_data.run(opened)
    check_levels(opened)


def preflight(plan: Any) -> None:
    """Find what is wrong with a plan's files and servers before Prefect starts; steps that pass are not done again."""
    from tasks.adapting.preflight import check_plan

    check_plan(plan, say=lambda line: console.print(line, highlight=False))


@contextmanager
def progress_bars() -> Iterator[None]:
    """Bars in a terminal; and fine-tunes that end at their next step when somebody interrupts the run."""
    from tasks import progress

    def interrupt(number: int, frame: object) -> None:
        progress.request_stop()
        raise KeyboardInterrupt

    progress.allow_start()
    signals = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        if console.is_terminal:
            console.print("starting Prefect ...")
            with progress.bars(console):
                yield
        else:
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def counting(what: str, unit: str = "") -> Iterator[Callable[[int, int | None], None]]:
    """A bar for work that is counted, with the time left; gives the callback that takes (done, in all)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        DownloadColumn() if unit == "bytes" else MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_errors, transient=True, disable=not _errors.is_terminal) as display:
        bar = display.add_task(what, total=None)
        yield lambda done, total: display.update(bar, completed=done, total=total)


def print_table(cells: Sequence[Sequence[str]], title: str | None = None) -> None:
    """A table, headings first: boxed in a terminal, aligned columns elsewhere."""
    heading, *body = cells
    if not console.is_terminal:
        widths = [max(len(line[i]) for line in cells) for i in range(len(heading))]
        if title:
            print(title)
        for line in cells:
            print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        return
    table = Table(title=title)
    for index, name in enumerate(heading):
        table.add_column(name, justify="left" if index == 0 else "right")
    for line in body:
        table.add_row(*line)
    console.print(table)


def command(name: str) -> str:
    """How to call a command of this environment from here, whether or not it is activated."""
    beside = Path(sys.executable).parent / name
    return name if shutil.which(name) or not beside.exists() else shlex.quote(os.path.relpath(beside))


def read_file(file: Path) -> bytes:
    """The content of a file that a user names."""
    from gearnn.errors import DataError

    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"expected a readable file, but got: {error.strerror}") from error


def fail(message: str) -> None:
    """Print an error as one line."""
    _errors.print(f"error: {message}", style="red", soft_wrap=True, highlight=False, markup=False)


def write_answer(answer: Any, outputs: Any, stem: str) -> str:
    """Write the mask and the facts of an answer beside each other; says where.

    Args:
        answer: of a problem.
        outputs: the :class:`gearnn.store.outputs.Outputs` that they go to.
        stem: their name there, without its ending.
    """
    import json

    from PIL import Image

    written = []
    if answer.mask is not None:
        with outputs.fresh(f"{stem}.png") as path:
            Image.fromarray(answer.mask).save(path)
        written.append(f"mask in {outputs.folder / stem}.png")
    if answer.facts:
        with outputs.fresh(f"{stem}.json") as path:
            path.write_text(json.dumps(answer.facts) + "\n")
        written.append(f"facts in {outputs.folder / stem}.json")
    return ", ".join(written)
