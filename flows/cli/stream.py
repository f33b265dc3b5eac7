"""The commands ``gearnn stream`` and ``gearnn present``: streams of changing quality, and one to try it with."""

import json
import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from flows.cli.terminal import console, counting, fail, preflight_data, print_table, running, write_answer
from gearnn.errors import GearNNError
from gearnn.store.files import telling_of_disks

_MOST_RECORDS = 200_000  # that the plot shows; the log has all
_SHOW = ("none", "masks", "overlays")
_RESULTS = ("log.jsonl", "plot.png", "plot.svg")


def stream(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="video, folder of segments, or manifest (.mpd)")],
    base: Annotated[str, typer.Option(help="name of the registered base, see `gearnn adaptors`")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder of log, plot and what --show says")] = Path(
        "stream"
    ),
    show: Annotated[str, typer.Option(help="what to write of every frame: none, masks or overlays")] = "none",
    truth: Annotated[Path | None, typer.Option(help="the truth of frames, see docs/streams.md")] = None,
    distortion: Annotated[str | None, typer.Option(help="use adaptors of this kind only")] = None,
    alias: Annotated[str, typer.Option(help="which version of each adaptor")] = "champion",
    off_map: Annotated[str, typer.Option(help="off the map: error (skip), base or nearest")] = "nearest",
    max_distance: Annotated[
        list[str] | None, typer.Option(metavar="KIND=DISTANCE", help="what is farther is off the map: jpeg=20")
    ] = None,
    steady: Annotated[int, typer.Option(help="segments that must agree on a small change; 0 follows each")] = 0,
    every: Annotated[int, typer.Option(help="run every n-th frame of a segment")] = 1,
    frame_rate: Annotated[float, typer.Option(help="of images in a folder")] = 25.0,
    throttle: Annotated[
        Path | None, typer.Option(help="serve SOURCE on loopback at a bandwidth trace: lines `seconds,kbit/s`")
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="stop following a live manifest after this time")] = None,
    precision: Annotated[str, typer.Option(help="fp32, bf16, or auto")] = "fp32",
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto")] = "cpu",
) -> None:
    """Run a stream through the gearbox: segments are sensed, gears shift at their boundaries."""
    with running(), ExitStack() as stack:
        from gearnn.errors import PlanError
        from gearnn.gearbox import GearBox
        from gearnn.gears.choice import Policy, Steady
        from gearnn.machine.compute import Compute
        from gearnn.store.addresses import shown
        from gearnn.store.outputs import Outputs
        from gearnn.streams import Session, Truth, open_source
        from gearnn.streams.throttle import read_trace, throttled

        if frame_rate <= 0:
            raise PlanError(f"--frame-rate: expected more than 0, but got {frame_rate:g}")
        for name, value, words in (("show", show, _SHOW), ("precision", precision, ("auto", "fp32", "bf16"))):
            if value not in words:
                raise PlanError(f"--{name}: expected {', '.join(words)}, but got {value!r}")
        policy = Policy(off_map=off_map, max_distance=_distances(max_distance or []))  # type: ignore[arg-type]
        outputs = Outputs(output, [path for path in (source, truth, throttle) if path is not None])
        outputs.check(*_RESULTS)
        if show != "none":
            outputs.check_folder(show)
        compute = Compute.resolve(device, precision)  # type: ignore[arg-type]
        gearbox = GearBox.from_registry(base, distortion, alias, compute=compute)
        if throttle is not None:
            manifest = Path(source)
            if manifest.suffix != ".mpd" or not manifest.is_file():
                raise PlanError(f"--throttle: expected a manifest (.mpd) on this disk, but got {shown(source)}")
            source = f"{stack.enter_context(throttled(manifest.parent, read_trace(throttle)))}/{manifest.name}"
        session = Session(
            gearbox,
            policy=policy,
            steady=Steady(patience=steady) if steady else None,
            truth=None if truth is None else Truth(truth, gearbox.known_problem),
            every=every,
        )
        records = _follow(session, open_source(source, frame_rate=frame_rate, live_seconds=seconds), outputs, show)
        _report(session, records, outputs)
        if records and not session.tally.frames:
            raise typer.Exit(1)


def present(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="plan in YAML, see docs/plans.md")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder of the presentation")] = Path("presentation"),
    levels: Annotated[
        list[str] | None, typer.Option("--level", help="a representation; default: the plan's, and undistorted")
    ] = None,
    frames: Annotated[int, typer.Option(help="of a segment")] = 1,
    frame_rate: Annotated[float, typer.Option(help="frames a second")] = 25.0,
) -> None:
    """Write a plan's test frames as a DASH presentation, one representation a level, with their truth."""
    with running():
        from fractions import Fraction

        from gearnn.errors import PlanError
        from gearnn.plan import Plan
        from gearnn.plan.opened import Opened
        from gearnn.streams.presentation import write_presentation

        if frames < 1 or frame_rate <= 0:
            raise PlanError(f"expected --frames and --frame-rate above 0, but got {frames}, {frame_rate:g}")
        checked = Plan.load(plan)
        preflight_data(checked)
        with counting("encoding segments", unit="segments") as count:
            written = write_presentation(
                Opened(checked).frames("test"),
                _representations(checked, levels or []),
                output,
                segment_frames=frames,
                frame_rate=Fraction(frame_rate).limit_denominator(1001),
                on_segment=count,
            )
        print_table(
            [("representation", "kbit/s"), *((str(lv), f"{rate:.0f}") for lv, rate in written.bandwidths.items())],
            title=f"{written.segments} segments",
        )
        console.print(
            f"manifest: {written.manifest}; truth: {written.manifest.parent / 'truth'}", soft_wrap=True, highlight=False
        )


def _distances(texts: list[str]) -> dict[str, float]:
    from gearnn.errors import LevelError

    found = {}
    for text in texts:
        kind, _, value = text.partition("=")
        if kind in found:
            raise LevelError(f"--max-distance: expected every kind once, but {kind} is given twice")
        try:
            found[kind] = float(value)
        except ValueError:
            raise LevelError(f"--max-distance: expected KIND=DISTANCE, such as jpeg=20, but got {text!r}") from None
    return found


def _representations(plan: Any, texts: list[str]) -> list[Any]:
    from gearnn.distortions import kind_of
    from gearnn.levels import DistortionLevel, expand_levels

    if texts:
        return list(dict.fromkeys(expand_levels(texts)))
    levels = list(plan.distortion_levels)
    for name in dict.fromkeys(level.parts[-1].kind for level in levels if len(level.parts) == 1):
        kind = kind_of(name)
        if kind.pristine_is_a_level:
            values = ",".join(f"{key}={value}" for key, value in kind.pristine.items())
            levels.append(DistortionLevel.parse(f"{name}:{values}"))
    return list(dict.fromkeys(levels))


def _follow(session: Any, segments: Iterator[Any], outputs: Any, show: str) -> list[Any]:
    """Run a session to its end, or to Ctrl-C; one line of the log a frame, as it comes."""
    records: deque[Any] = deque(maxlen=_MOST_RECORDS)
    path = outputs.folder / "log.jsonl"
    with telling_of_disks(path), outputs.growing(path.name), path.open("w") as log, _view(session) as update:
        try:
            for record, shown in session.run(segments):
                records.append(record)
                log.write(json.dumps(record.to_json()) + "\n")
                log.flush()
                if shown is not None and show != "none":
                    _draw(session.problem, shown, outputs, f"{show}/{record.segment}-{record.frame}")
                update(record)
        except KeyboardInterrupt:
            console.print("stopped; what ran until now is reported below")
        except GearNNError as error:  # the source ended badly; what ran is reported all the same
            fail(str(error))
    return list(records)


def _draw(problem: Any, shown: Any, outputs: Any, stem: str) -> None:
    import numpy as np
    from PIL import Image

    if stem.startswith("overlays") and hasattr(problem, "draw"):
        drawn = Image.fromarray(problem.draw(np.asarray(shown.image), shown.prediction))
        with outputs.fresh(f"{stem}.png") as path:
            drawn.save(path)
    else:
        write_answer(problem.answer(shown.prediction), outputs, stem)


@contextmanager
def _view(session: Any) -> Iterator[Callable[[Any], None]]:
    """A table in a terminal that shows the present frame; elsewhere a line now and then, and for what is skipped."""
    from rich.live import Live
    from rich.table import Table

    state = _State(session.tally)

    def table(record: Any) -> Table:
        shown = Table(box=None, show_header=False)
        for name, value in state.rows(record):
            shown.add_row(name, value)
        return shown

    if console.is_terminal:
        with Live(console=console, refresh_per_second=8) as live:
            yield lambda record: live.update(table(record))
        return

    def line(record: Any) -> None:
        if record.skipped or session.tally.frames % 100 == 1:
            console.print(state.line(record), soft_wrap=True, highlight=False)

    yield line


@dataclass
class _State:
    tally: Any

    def rows(self, record: Any) -> list[tuple[str, str]]:
        tally = self.tally
        rows = [
            ("time", f"{record.time:.1f} s, segment {record.segment}"),
            ("representation", f"{record.representation}, {record.throughput or 0:.0f} kbit/s"),
            ("level", f"sensed {record.sensed}, used {record.used}"),
            ("latency", f"{record.latency_ms:.1f} ms, {1000 / max(record.latency_ms, 1e-9):.1f} frames/s"),
            ("score", "" if record.score is None else f"{record.score:.1f}"),
            ("done", f"{tally.frames} frames of {tally.segments} segments, {tally.shifts} shifts of gear"),
            ("skipped", f"{tally.skipped_segments} segments, {tally.skipped_frames} frames"),
        ]
        dropped = {"representation": not record.representation, "score": record.score is None}
        return [row for row in rows if not dropped.get(row[0])]

    def line(self, record: Any) -> str:
        if record.skipped:
            return f"segment {record.segment}: skipped: {record.skipped}"
        return ", ".join(f"{name} {value}" for name, value in self.rows(record))


def _report(session: Any, records: list[Any], outputs: Any) -> None:
    from statistics import median

    from gearnn.evaluation.solutions import title

    tally = session.tally
    metric = title(session.problem.new_score().primary_name)
    cells = [("gear", "frames", metric)]
    for used, number in sorted(tally.frames_of.items()):
        score = tally.scores[used].primary if used in tally.scores else math.nan
        cells.append(("base" if used == "pristine" else used, str(number), "" if math.isnan(score) else f"{score:.1f}"))
    print_table(cells, title=f"{tally.frames} frames of {tally.segments} segments, {tally.shifts} shifts of gear")
    if tally.skipped_segments or tally.skipped_frames:
        console.print(f"skipped: {tally.skipped_segments} segments, {tally.skipped_frames} frames; the log says why")
    if tally.latencies_ms:
        console.print(f"latency: {median(tally.latencies_ms):.1f} ms a frame (median), without decoding and sensing")
    written = [outputs.folder / "log.jsonl"]
    if tally.frames:
        from gearnn.evaluation.figures import save
        from gearnn.streams.figure import over_time

        with TemporaryDirectory() as folder:
            for drawn in save(over_time(records, metric=metric), Path(folder) / "plot"):
                with outputs.fresh(drawn.name) as path:
                    path.write_bytes(drawn.read_bytes())
        written.append(outputs.folder / _RESULTS[1])
    console.print("written: " + ", ".join(map(str, written)), soft_wrap=True, highlight=False)
