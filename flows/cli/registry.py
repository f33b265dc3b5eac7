"""Commands about what is registered: list it, bundle it, sense with it, infer with it."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.terminal import command, console, counting, fail, print_table, read_file, running, write_answer
from gearnn.errors import GearNNError

if TYPE_CHECKING:
    from gearnn.distortions import Sensed

PlanFile = Annotated[Path, typer.Argument(metavar="PLAN", help="plan in YAML, see docs/plans.md")]


def sense(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="encoded images or clips")],
    base: Annotated[str | None, typer.Option(help="look for levels that this registered base has adaptors for")] = None,
    distortion: Annotated[str | None, typer.Option(help="with --base: only levels of this kind")] = None,
) -> None:
    """Find the distortion level of files, from their bytes; with --base also by comparison with its calibration."""
    with running():
        from gearnn.distortions import sense as sense_bytes

        look: Callable[[bytes], Sensed] = sense_bytes
        status = 0
        if base is not None:
            from gearnn.gearbox import GearBox  # with torch and MLflow

            look = GearBox.from_registry(base, distortion).sense
        for file in files:
            try:
                sensed = look(read_file(file))
                note = f"; {sensed.note}" if sensed.note else ""
                text = f"{file}: {sensed.level} (misfit {sensed.misfit:.3f}{note})"
                console.print(text, soft_wrap=True, highlight=False)
            except GearNNError as error:
                status = max(status, error.exit_status)
                fail(f"{file}: {error}")
        if status:
            raise typer.Exit(status)


def sensing(
    plan: PlanFile,
    together: Annotated[bool, typer.Option("--together", help="one gearbox with the adaptors of all kinds")] = False,
) -> None:
    """How often the registered adaptors' sensors are right on a plan's test split, and what errors cost."""
    with running():
        from gearnn.plan import Plan
        from tasks.inspecting.sensing import confusion_cells, sense_levels

        checked = Plan.load(plan)
        with counting("sensing frames") as count:
            found = sense_levels(checked, count, together=together)
        for kind, facts in found.items():
            print_table(confusion_cells(facts), title=f"{kind}: frames by the gear that sensing chose")


def adaptors(
    base: Annotated[str | None, typer.Option(help="only those of this registered base")] = None,
    distortion: Annotated[str | None, typer.Option(help="only those for this kind, such as jpeg")] = None,
) -> None:
    """List the adaptors in the registry, with what people choose by."""
    with running():
        from gearnn import registry
        from gearnn.evaluation import solutions
        from gearnn.evaluation.solutions import TEST, title
        from gearnn.registry import runs
        from gearnn.registry.names import TAG_BASE_URI, TAG_FIGURE, TAG_NUM_VALUES, metric_name
        from gearnn.registry.servers import check_mlflow

        check_mlflow()
        heading = ("model", "version", "alias", "base", "figure", "of the adaptor", "of the base", "values")
        cells: list[tuple[str, ...]] = [heading]
        for version in registry.adaptors(base, distortion):
            metrics = registry.metrics(version)
            figure = version.tags.get(TAG_FIGURE, "miou")
            names = (metric_name(TEST, solution, figure) for solution in (solutions.ADAPTOR, solutions.BASE))
            cells.append(
                (
                    version.name,
                    version.version,
                    ", ".join(version.aliases),
                    version.tags[TAG_BASE_URI].removeprefix("models:/"),
                    title(figure),
                    *(f"{metrics[name]:.1f}" if name in metrics else "" for name in names),
                    f"{int(version.tags[TAG_NUM_VALUES]):,}",
                )
            )
        if len(cells) == 1:
            of = "" if base is None else f" of {base}"
            console.print(
                f"no adaptors{of} are registered at {runs.shown_uri()}; `gearnn adapt PLAN` makes some, "
                f"MLFLOW_TRACKING_URI names another registry",
                soft_wrap=True,
                highlight=False,
            )
        else:
            print_table(cells)


def bundle(
    base: Annotated[str, typer.Argument(help="name of the registered base, see `gearnn adaptors`")],
    alias: Annotated[str, typer.Option(help="which version of each adaptor")] = "champion",
) -> None:
    """Register a base with its adaptors as one model to be served; `gearnn adapt` does so at its end."""
    with running():
        from gearnn import registry
        from gearnn.registry.servers import check_mlflow

        check_mlflow()
        version = registry.register_gearbox(base, alias)
        print_table(
            [("level", "version"), *registry.contents(version)], title=f"{version.name} version {version.version}"
        )
        console.print(f"serve: {serving(version.name)}", soft_wrap=True, highlight=False)


def infer(
    base: Annotated[str, typer.Argument(help="name of the registered base, see `gearnn adaptors`")],
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="encoded images or clips")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for masks (PNG) and facts (JSON)")] = Path(
        "masks"
    ),
    distortion: Annotated[str | None, typer.Option(help="use adaptors of this kind only")] = None,
    alias: Annotated[str, typer.Option(help="which version of each adaptor")] = "champion",
    level: Annotated[str | None, typer.Option(help="the level, where the bytes do not say it")] = None,
    trust_level: Annotated[bool, typer.Option("--trust-level", help="even where the bytes say otherwise")] = False,
    off_map: Annotated[str, typer.Option(help="frames without a fitting gear: error, base or nearest")] = "nearest",
    memory: Annotated[bool, typer.Option("--memory", help="say what is resident")] = False,
) -> None:
    """Run images through the gearbox: sense each one's level, use the adaptor that fits."""
    with running():
        from gearnn.errors import DataError
        from gearnn.evaluation.memory import memory_cells
        from gearnn.gearbox import GearBox
        from gearnn.gears.choice import Policy
        from gearnn.levels import DistortionLevel
        from gearnn.registry.servers import check_mlflow
        from gearnn.store.outputs import Outputs

        check_mlflow()
        told = None if level is None else DistortionLevel.parse(level)
        if len({file.stem.casefold() for file in files}) < len(files):
            raise DataError("expected images of different names, because masks are named after them")
        outputs = Outputs(output, files)
        policy = Policy(off_map=off_map)  # type: ignore[arg-type]
        gearbox = GearBox.from_registry(base, distortion, alias)
        endings = (".json",) if gearbox.known_problem.truth == "class" else (".png", ".json")
        outputs.check(*(f"{file.stem}{ending}" for file in files for ending in endings))
        if memory:
            print_table(memory_cells(gearbox.memory()), title=f"{base}: what is resident")
        status = 0
        for file in files:
            try:
                data = read_file(file)
                answer = gearbox.infer([data], level=told, trust_level=trust_level, policy=policy)[0]
            except GearNNError as error:
                status = max(status, error.exit_status)
                fail(f"{file}: {error}")
                continue
            assert gearbox.problem is not None, "a registered base has one"
            found = gearbox.problem.answer(answer.prediction)
            wrote = write_answer(found, outputs, file.stem)
            facts = "; ".join([f"misfit {answer.misfit:.3f}", *filter(None, [answer.note])])
            how = f"sensed {answer.sensed} ({facts})" if told is None else f"given {answer.sensed}"
            used = "the base" if answer.used.is_pristine else str(answer.used)
            used += f" ({answer.distance:.3g} away)" if answer.distance else ""
            used += f" ({answer.off_map})" if answer.off_map else ""
            console.print(f"{file}: {how}, used {used}: {found.text}; {wrote}", soft_wrap=True, highlight=False)
        if status:
            raise typer.Exit(status)


def serving(name: str) -> str:
    """The command that serves a registered model from here."""
    from gearnn.registry import runs

    return (
        f"MLFLOW_TRACKING_URI={shlex.quote(runs.shown_uri())} {command('mlflow')} models serve "
        f"-m models:/{name}@champion --env-manager local --port 5001"
    )
