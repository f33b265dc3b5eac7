"""The command ``gearnn``. Exit status: 0 done, 2 a plan or its data cannot be used, 1 the run failed."""

import gc
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli import data, model, ops, planning, registry, stream, submit
from flows.cli.registry import PlanFile, serving
from flows.cli.terminal import command, console, preflight, print_table, progress_bars, running
from gearnn.version import __version__

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data.data, name="data")
app.add_typer(data.cache, name="cache")
app.add_typer(model.model, name="model")
app.add_typer(planning.plan, name="plan")


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        print(f"gearnn {__version__}")
        raise typer.Exit


@app.callback()
def gearnn(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="show the version and exit")
    ] = False,
) -> None:
    """GearNN: one base network, a tiny adaptor for every distortion level."""


@app.command()
def adapt(plan: PlanFile) -> None:
    """Find and register an adaptor for every level of a plan."""
    with running():
        from flows.adapt import adapt as run
        from gearnn.evaluation.solutions import title
        from gearnn.plan import Plan
        from tasks.registering.scorecard import table_cells

        checked = Plan.load(plan)
        preflight(checked)
        console.print(f"adaptors for {len(checked.distortion_levels)} levels ...", highlight=False)
        started = time.monotonic()
        with progress_bars():
            adapted = run(checked)
        heading = (
            f"{checked.registered_base}: {title(adapted.pristine.figure)} in percent; "
            f"the base scores {adapted.pristine.values['test']:.1f} on undistorted frames; {adapted.data.in_words}"
        )
        print_table(table_cells(adapted.rows, adapted.base), title=heading)
        for row in adapted.rows:
            if row.registered is not None and row.registered.version != row.registered.champion:
                told = f"{row.registered.name} version {row.registered.version}"
                print(f"not in use: {told} stays challenger: {row.registered.reason}")
        _print_next(checked, adapted, time.monotonic() - started)


@app.command()
def benchmark(plan: PlanFile) -> None:
    """Compare GearNN with all other solutions at every level of a plan: table, figures, page; see docs/benchmark.md."""
    with running():
        from flows.benchmark import benchmark as run
        from gearnn.evaluation.results import Results, read_results
        from gearnn.evaluation.solutions import title
        from gearnn.plan import Plan

        checked = Plan.load(plan)
        preflight(checked)
        started = time.monotonic()
        with progress_bars():
            done = run(checked)
        results = Results(read_results(Path(done.table))[0], checked.levels)
        cells = [("solution", *results.levels, "mean")]
        for solution in results.solutions:
            line = [str(results.cell(solution, level)) for level in results.levels]
            cells.append((str(solution), *line, str(results.average(solution))))
        print_table(
            cells, title=f"{checked.registered_base}: {title(results.metric)} in percent on {checked.data.splits.test}"
        )
        for failure in done.failures:
            console.print(f"not measured: {failure}", soft_wrap=True, highlight=False)
        print(f"finished in {time.monotonic() - started:.0f} s")
        print(f"table:     {os.path.relpath(done.table)}")
        print(f"report:    {os.path.relpath(done.report)}")
        if done.has_died:
            raise typer.Exit(1)


@app.command("train-base")
def train_base(
    plan: PlanFile,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="write the base to this file")] = None,
) -> None:
    """Train a base on pristine frames, where there is no pre-trained one."""
    with running():
        from flows.train_base import train_base as run
        from gearnn.errors import PlanError
        from gearnn.evaluation.solutions import title
        from gearnn.plan import Plan
        from tasks.adapting.base import output_of
        from tasks.registering.scorecard import all_figures

        checked = Plan.load(plan)
        if output is not None and output.suffix != ".safetensors":
            raise PlanError(f"--output: expected a file that ends with .safetensors, but got {output}")
        if output is not None:
            output_of(checked, output)
        preflight(checked)
        with progress_bars():
            trained = run(checked, str(output) if output else None)
        score = trained.score
        told = ", ".join(f"{title(name)} {value:.1f}" for name, value in all_figures(score, "test").items())
        console.print(
            f"{told} on pristine frames of {checked.data.splits.test}; "
            f"registered as {trained.registered.name} version {trained.registered.version}"
            + (f"; written to {output}" if output else "")
        )


@app.command()
def retrain(
    plans: Annotated[list[Path], typer.Argument(metavar="PLAN...", help="plans, or folders of plans")],
    level: Annotated[list[str] | None, typer.Option(help="only this level; may be repeated")] = None,
    archive: Annotated[
        bool, typer.Option("--archive", help="take levels out of use that no plan has; give all plans of a base then")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be done, and why")] = False,
) -> None:
    """Make what plans want and the registry lacks, and nothing else."""
    with running():
        from flows.retrain import TO_BE_MADE
        from flows.retrain import retrain as run
        from gearnn.levels import DistortionLevel
        from gearnn.registry.servers import check_mlflow
        from tasks.retraining.compare import compare
        from tasks.retraining.report import finding_cells, registered_cells
        from tasks.retraining.retrain import read_plans

        places, levels = [str(place) for place in plans], [str(DistortionLevel.parse(text)) for text in level or ()]
        check_mlflow()
        if dry_run:
            findings = compare.fn(read_plans(places), levels)
            print_table(finding_cells(findings))
            wanted = sum(finding.state in TO_BE_MADE for finding in findings)
            print(f"to be made: {wanted}; {_besides(findings, archive)}")
            return
        with progress_bars():
            done = run(places, levels, archive)
        print_table(registered_cells(done.registered) if done.registered else finding_cells(done.findings))
        print(f"made or decided: {len(done.registered)}; {_besides(done.findings, archive)}")


def _besides(findings: Any, archive: bool) -> str:
    """What a retraining does without training, in words."""
    states = [finding.state for finding in findings]
    number = {state: states.count(state) for state in ("archived", "retired", "present")}
    retired = "" if archive or not number["retired"] else " (with --archive)"
    told = f"to come back: {number['archived']}; to be archived: {number['retired']}{retired}"
    return f"{told}; in place: {number['present']} of {len(findings)}"


def _print_next(plan: Any, adapted: Any, seconds: float) -> None:
    from gearnn.plan.opened import trusted_by
    from gearnn.registry import runs

    packages = sorted({module.partition(".")[0] for module in trusted_by(plan)})
    trust = f"GEARNN_TRUST={','.join(packages)} " if packages else ""  # the base names their code
    print(f"finished in {seconds:.0f} s")
    own = command("gearnn")
    print(f"report:    {os.path.relpath(adapted.report)}")
    print(f"registry:  {runs.ui_command().replace('mlflow ui', command('mlflow') + ' ui')}")
    if adapted.gearbox is not None:
        print(f"serve:     {trust}{serving(adapted.gearbox.name)}")
    print(f"next:      {own} adaptors; {trust}{own} infer {plan.registered_base} IMAGE.jpg")


for _command in (
    submit.submit,
    ops.doctor,
    registry.adaptors,
    registry.infer,
    registry.bundle,
    stream.stream,
    stream.present,
    registry.sense,
    registry.sensing,
):
    app.command()(_command)


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    finally:
        gc.freeze()  # what Python walks through again as it ends, half a second of it with MLflow in memory


if __name__ == "__main__":
    sys.exit(app())
