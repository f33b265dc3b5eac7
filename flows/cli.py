"""The command ``gearnn``. Exit status: 0 done, 2 a plan or its data cannot be used, 1 the run failed."""

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from gearnn.errors import GearNNError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="GearNN: one base network, a tiny adaptor for every distortion level.",
)
_console = Console()
_errors = Console(stderr=True)

PlanFile = Annotated[Path, typer.Argument(metavar="PLAN", help="plan in YAML, see docs/plans.md")]


@app.command()
def adapt(plan: PlanFile) -> None:
    """Find and register an adaptor for every level of a plan."""
    with _run():
        from flows.adapt import adapt as run
        from gearnn.plan import Plan
        from tasks.scorecard import table_cells

        checked = Plan.load(plan)
        _preflight(checked)
        started = time.monotonic()
        with _progress():
            adapted = run(checked)
        title = (
            f"{checked.registered_base}: mIoU in percent on the split {checked.data.splits.test}; "
            f"the base scores {adapted.pristine.values['test']:.1f} on undistorted frames"
        )
        _print_table(table_cells(adapted.rows, adapted.base), title=title)
        _print_next(checked, adapted, time.monotonic() - started)


@app.command("train-base")
def train_base(
    plan: PlanFile,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="write the base to this file")] = None,
) -> None:
    """Train a base on pristine frames, where there is no pre-trained one."""
    with _run():
        from flows.train_base import train_base as run
        from gearnn.errors import PlanError
        from gearnn.plan import Plan

        checked = Plan.load(plan)
        if output is not None and output.suffix != ".safetensors":
            raise PlanError(f"--output: expected a file that ends with .safetensors, but got {output}")
        _preflight(checked)
        with _progress():
            trained = run(checked, str(output) if output else None)
        score = trained.score
        _console.print(
            f"{score.figure} {score.values['test']:.1f} on pristine frames of {checked.data.splits.test}; "
            f"registered as {trained.registered.name} version {trained.registered.version}"
            + (f"; written to {output}" if output else "")
        )


@app.command()
def sense(files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="encoded images")]) -> None:
    """Tell the distortion level of image files, from their bytes."""
    with _run():
        from gearnn.distortions import sense as sense_bytes

        status = 0
        for file in files:
            try:
                sensed = sense_bytes(_read(file))
                _console.print(f"{file}: {sensed.level} (misfit {sensed.misfit:.3f})", soft_wrap=True, highlight=False)
            except GearNNError as error:
                status = max(status, error.exit_status)
                _fail(f"{file}: {error}")
        if status:
            raise typer.Exit(status)


@app.command()
def adaptors(
    base: Annotated[str | None, typer.Option(help="only those of this registered base")] = None,
    distortion: Annotated[str | None, typer.Option(help="only those for this kind, such as jpeg")] = None,
) -> None:
    """List the adaptors in the registry, with what people choose by."""
    with _run():
        from gearnn import registry
        from gearnn import vocabulary as words

        cells = [("model", "version", "alias", "base", "adaptor mIoU", "base mIoU", "values")]
        for version in registry.adaptors(base, distortion):
            metrics = registry.metrics(version)
            figures = (metrics.get(words.metric_name(words.TEST, s, "miou")) for s in (words.ADAPTOR, words.BASE))
            cells.append(
                (
                    version.name,
                    version.version,
                    ", ".join(version.aliases),
                    version.tags[words.TAG_BASE_URI].removeprefix("models:/"),
                    *("" if figure is None else f"{figure:.1f}" for figure in figures),
                    f"{int(version.tags[words.TAG_NUM_VALUES]):,}",
                )
            )
        if len(cells) == 1:
            _console.print("no adaptors are registered here; `gearnn adapt PLAN` makes some")
        else:
            _print_table(cells)


@app.command()
def infer(
    base: Annotated[str, typer.Argument(help="name of the registered base, see `gearnn adaptors`")],
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="encoded images")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for the class masks, PNG")] = Path("masks"),
    distortion: Annotated[str | None, typer.Option(help="use adaptors of this kind only")] = None,
    alias: Annotated[str, typer.Option(help="which version of each adaptor")] = "champion",
    level: Annotated[str | None, typer.Option(help="tell the level where the bytes do not")] = None,
) -> None:
    """Run images through the gearbox: sense each one's level, use the adaptor that fits."""
    with _run():
        import numpy as np
        from PIL import Image

        from gearnn.errors import DataError
        from gearnn.gearbox import GearBox
        from gearnn.levels import DistortionLevel

        told = None if level is None else DistortionLevel.parse(level)
        targets = {file: output / f"{file.stem}.png" for file in files}
        if len(set(targets.values())) < len(targets):
            raise DataError("expected images of different names, because masks are named after them")
        gearbox = GearBox.from_registry(base, distortion, alias)
        output.mkdir(parents=True, exist_ok=True)
        status = 0
        for file, target in targets.items():
            try:
                answer = gearbox.infer([_read(file)], level=told)[0]
            except GearNNError as error:
                status = max(status, error.exit_status)
                _fail(f"{file}: {error}")
                continue
            Image.fromarray(np.asarray(answer.prediction, dtype=np.uint8)).save(target)
            _console.print(f"{file}: sensed {answer.sensed}, used {answer.used}, mask in {target}", soft_wrap=True)
        if status:
            raise typer.Exit(status)


@contextmanager
def _run() -> Iterator[None]:
    """Settings of every command, and errors as one line with an exit status."""
    try:
        _configure()
        yield
    except typer.Exit:
        raise
    except GearNNError as error:
        _fail(str(error))
        raise typer.Exit(error.exit_status) from None
    except KeyboardInterrupt:
        _fail("stopped; what was finished is stored, and the same command goes on from there")
        raise typer.Exit(130) from None
    except Exception as error:
        if os.environ.get("GEARNN_DEBUG"):
            raise
        reason = " ".join(str(error).split())[:300]
        _fail(f"{type(error).__name__}: {reason} (GEARNN_DEBUG=1 shows where)")
        raise typer.Exit(1) from None


def _configure() -> None:
    """Prefect and MLflow for one machine without servers, where the environment says nothing else."""
    from gearnn.tracking import home

    defaults = {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL" if _console.is_terminal else "INFO",
    }
    if "PREFECT_API_URL" not in os.environ:
        defaults["PREFECT_HOME"] = str(home() / "prefect")
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    Path(os.environ.get("PREFECT_HOME", Path.home() / ".prefect")).mkdir(parents=True, exist_ok=True)


def _preflight(plan: Any) -> None:
    """Find what is wrong with a plan's files and servers before Prefect starts; steps that pass are not done again."""
    from gearnn import tracking
    from gearnn.resolve import check_bound, compute_of, open_base
    from tasks.data import check_data

    compute_of(plan)
    tracking.check_server()
    check_bound(plan, open_base(plan))
    _console.print(f"checking the frames of {plan.data.name} ...", highlight=False)
    check_data.fn(plan)


@contextmanager
def _progress() -> Iterator[None]:
    """Bars in a terminal; and fine-tunes that end at their next step when somebody interrupts the run."""
    from tasks import progress

    def interrupt(number: int, frame: object) -> None:
        progress.request_stop()
        raise KeyboardInterrupt

    progress.allow_start()
    signals = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        if _console.is_terminal:
            _console.print("starting Prefect ...")
            with progress.bars(_console):
                yield
        else:
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print_table(cells: Sequence[Sequence[str]], title: str | None = None) -> None:
    heading, *body = cells
    if not _console.is_terminal:
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
    _console.print(table)


def _print_next(plan: Any, adapted: Any, seconds: float) -> None:
    from gearnn import tracking

    print(f"finished in {seconds:.0f} s")
    gearnn = _command("gearnn")
    print(f"report:    {os.path.relpath(adapted.report)}")
    print(f"registry:  {tracking.ui_command().replace('mlflow ui', _command('mlflow') + ' ui')}")
    print(f"next:      {gearnn} adaptors; {gearnn} infer {plan.registered_base} IMAGE.jpg")


def _command(name: str) -> str:
    """How to call a command of this environment from here, whether or not it is activated."""
    beside = Path(sys.executable).parent / name
    return name if shutil.which(name) or not beside.exists() else os.path.relpath(beside)


def _read(file: Path) -> bytes:
    from gearnn.errors import DataError

    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"expected a readable file, but got: {error.strerror}") from error


def _fail(message: str) -> None:
    _errors.print(f"error: {message}", style="red", soft_wrap=True, highlight=False, markup=False)


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    sys.exit(app())
