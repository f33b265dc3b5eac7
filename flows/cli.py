"""The command ``gearnn``. Exit status: 0 done, 2 a plan or its data cannot be used, 1 the run failed."""

import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from flows import cli_data, cli_model, cli_ops, cli_stream, cli_submit
from flows.terminal import (
    command,
    console,
    counting,
    fail,
    preflight,
    print_table,
    progress_bars,
    read_file,
    running,
    write_answer,
)
from gearnn.errors import GearNNError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="GearNN: one base network, a tiny adaptor for every distortion level.",
)
app.add_typer(cli_data.data, name="data")
app.add_typer(cli_data.cache, name="cache")
app.add_typer(cli_model.model, name="model")
app.command()(cli_stream.stream)
app.command()(cli_stream.present)
app.command()(cli_ops.doctor)
app.command()(cli_submit.submit)

PlanFile = Annotated[Path, typer.Argument(metavar="PLAN", help="plan in YAML, see docs/plans.md")]


@app.command()
def adapt(plan: PlanFile) -> None:
    """Find and register an adaptor for every level of a plan."""
    with running():
        from flows.adapt import adapt as run
        from gearnn.plan import Plan
        from gearnn.vocabulary import title
        from tasks.scorecard import table_cells

        checked = Plan.load(plan)
        preflight(checked)
        console.print(f"adaptors for {len(checked.distortion_levels)} levels ...", highlight=False)
        started = time.monotonic()
        with progress_bars():
            adapted = run(checked)
        figure, split = title(adapted.pristine.figure), checked.data.splits.test
        heading = (
            f"{checked.registered_base}: {figure} in percent on the split {split}; "
            f"the base scores {adapted.pristine.values['test']:.1f} on undistorted frames"
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
        from gearnn.plan import Plan
        from gearnn.results import Results, read_results
        from gearnn.vocabulary import title

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
        from gearnn.plan import Plan
        from gearnn.vocabulary import title
        from tasks.scorecard import all_figures

        checked = Plan.load(plan)
        if output is not None and output.suffix != ".safetensors":
            raise PlanError(f"--output: expected a file that ends with .safetensors, but got {output}")
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
        from gearnn.servers import check_mlflow
        from tasks.compare import compare
        from tasks.retrain import read_plans
        from tasks.retrain_report import finding_cells, registered_cells

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


@app.command()
def sense(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="encoded images or clips")],
    base: Annotated[str | None, typer.Option(help="look for levels that this registered base has adaptors for")] = None,
    distortion: Annotated[str | None, typer.Option(help="with --base: only levels of this kind")] = None,
) -> None:
    """Tell the distortion level of files, from their bytes; with --base also by comparison with its calibration."""
    with running():
        from gearnn.distortions import sense as sense_bytes
        from gearnn.gearbox import GearBox

        look = sense_bytes if base is None else GearBox.from_registry(base, distortion).sense
        status = 0
        for file in files:
            try:
                sensed = look(read_file(file))
                console.print(f"{file}: {sensed.level} (misfit {sensed.misfit:.3f})", soft_wrap=True, highlight=False)
            except GearNNError as error:
                status = max(status, error.exit_status)
                fail(f"{file}: {error}")
        if status:
            raise typer.Exit(status)


@app.command()
def sensing(
    plan: PlanFile,
    together: Annotated[bool, typer.Option("--together", help="one gearbox with the adaptors of all kinds")] = False,
) -> None:
    """How often the registered adaptors' sensors are right on a plan's test split, and what errors cost."""
    with running():
        from gearnn.plan import Plan
        from tasks.sensing import confusion_cells, sense_levels

        checked = Plan.load(plan)
        with counting("sensing frames") as count:
            found = sense_levels(checked, count, together=together)
        for kind, facts in found.items():
            print_table(confusion_cells(facts), title=f"{kind}: frames by the gear that sensing chose")


@app.command()
def adaptors(
    base: Annotated[str | None, typer.Option(help="only those of this registered base")] = None,
    distortion: Annotated[str | None, typer.Option(help="only those for this kind, such as jpeg")] = None,
) -> None:
    """List the adaptors in the registry, with what people choose by."""
    with running():
        from gearnn import registry, tracking
        from gearnn import vocabulary as words
        from gearnn.servers import check_mlflow

        check_mlflow()
        cells = [("model", "version", "alias", "base", "figure", "of the adaptor", "of the base", "values")]
        for version in registry.adaptors(base, distortion):
            metrics = registry.metrics(version)
            figure = version.tags.get(words.TAG_FIGURE, "miou")
            names = (words.metric_name(words.TEST, solution, figure) for solution in (words.ADAPTOR, words.BASE))
            cells.append(
                (
                    version.name,
                    version.version,
                    ", ".join(version.aliases),
                    version.tags[words.TAG_BASE_URI].removeprefix("models:/"),
                    words.title(figure),
                    *(f"{metrics[name]:.1f}" if name in metrics else "" for name in names),
                    f"{int(version.tags[words.TAG_NUM_VALUES]):,}",
                )
            )
        if len(cells) == 1:
            of = "" if base is None else f" of {base}"
            console.print(
                f"no adaptors{of} are registered at {tracking.shown_uri()}; `gearnn adapt PLAN` makes some, "
                f"MLFLOW_TRACKING_URI names another registry",
                soft_wrap=True,
                highlight=False,
            )
        else:
            print_table(cells)


@app.command()
def bundle(
    base: Annotated[str, typer.Argument(help="name of the registered base, see `gearnn adaptors`")],
    alias: Annotated[str, typer.Option(help="which version of each adaptor")] = "champion",
) -> None:
    """Register a base with its adaptors as one model to be served; `gearnn adapt` does so at its end."""
    with running():
        from gearnn import registry
        from gearnn.servers import check_mlflow

        check_mlflow()
        version = registry.register_gearbox(base, alias)
        print_table(
            [("level", "version"), *registry.contents(version)], title=f"{version.name} version {version.version}"
        )
        console.print(f"serve: {_serve(version.name)}", soft_wrap=True, highlight=False)


@app.command()
def infer(
    base: Annotated[str, typer.Argument(help="name of the registered base, see `gearnn adaptors`")],
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="encoded images or clips")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for masks (PNG) and facts (JSON)")] = Path(
        "masks"
    ),
    distortion: Annotated[str | None, typer.Option(help="use adaptors of this kind only")] = None,
    alias: Annotated[str, typer.Option(help="which version of each adaptor")] = "champion",
    level: Annotated[str | None, typer.Option(help="tell the level where the bytes do not")] = None,
    trust_level: Annotated[bool, typer.Option("--trust-level", help="even where the bytes say otherwise")] = False,
    off_map: Annotated[str, typer.Option(help="frames without a fitting gear: error, base or nearest")] = "nearest",
    memory: Annotated[bool, typer.Option("--memory", help="say what is resident")] = False,
) -> None:
    """Run images through the gearbox: sense each one's level, use the adaptor that fits."""
    with running():
        from gearnn.choice import Policy
        from gearnn.errors import DataError
        from gearnn.files import telling_of_disks
        from gearnn.gearbox import GearBox
        from gearnn.levels import DistortionLevel
        from gearnn.memory import memory_cells
        from gearnn.servers import check_mlflow

        check_mlflow()
        told = None if level is None else DistortionLevel.parse(level)
        targets = {file: output / f"{file.stem}.png" for file in files}
        if len(set(targets.values())) < len(targets):
            raise DataError("expected images of different names, because masks are named after them")
        with telling_of_disks(output):
            output.mkdir(parents=True, exist_ok=True)
        policy = Policy(off_map=off_map)  # type: ignore[arg-type]
        gearbox = GearBox.from_registry(base, distortion, alias)
        if memory:
            print_table(memory_cells(gearbox.memory()), title=f"{base}: what is resident")
        status = 0
        for file, target in targets.items():
            try:
                data = read_file(file)
                answer = gearbox.infer([data], level=told, trust_level=trust_level, policy=policy)[0]
            except GearNNError as error:
                status = max(status, error.exit_status)
                fail(f"{file}: {error}")
                continue
            assert gearbox.problem is not None, "a registered base has one"
            found = gearbox.problem.answer(answer.prediction)
            wrote = write_answer(found, target)
            how = f"sensed {answer.sensed} (misfit {answer.misfit:.3f})" if told is None else f"told {answer.sensed}"
            used = "the base" if answer.used.is_pristine else str(answer.used)
            used += f" ({answer.distance:.3g} away)" if answer.distance else ""
            used += f" ({answer.off_map})" if answer.off_map else ""
            console.print(f"{file}: {how}, used {used}: {found.text}; {wrote}", soft_wrap=True, highlight=False)
        if status:
            raise typer.Exit(status)


def _print_next(plan: Any, adapted: Any, seconds: float) -> None:
    from gearnn import tracking
    from gearnn.resolve import trusted_by

    packages = sorted({module.partition(".")[0] for module in trusted_by(plan)})
    trust = f"GEARNN_TRUST={','.join(packages)} " if packages else ""  # the base names their code
    print(f"finished in {seconds:.0f} s")
    gearnn = command("gearnn")
    print(f"report:    {os.path.relpath(adapted.report)}")
    print(f"registry:  {tracking.ui_command().replace('mlflow ui', command('mlflow') + ' ui')}")
    if adapted.gearbox is not None:
        print(f"serve:     {trust}{_serve(adapted.gearbox.name)}")
    print(f"next:      {gearnn} adaptors; {trust}{gearnn} infer {plan.registered_base} IMAGE.jpg")


def _serve(name: str) -> str:
    from gearnn import tracking

    return (
        f"MLFLOW_TRACKING_URI={tracking.shown_uri()} {command('mlflow')} models serve "
        f"-m models:/{name}@champion --env-manager local --port 5001"
    )


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    sys.exit(app())
