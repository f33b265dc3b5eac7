"""`make bench`: what the project promises about cost, as ratios measured side by side in one run.

Machines are shared and noisy: every pair is measured in turns, and the medians are compared. Each
row says its target; a missed target makes the exit status 1, and is the figure to report.
"""

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from math import log2
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

from gearnn.datasets import Camera, DistortedDataset, open_split
from gearnn.datasets.streets import Streets
from gearnn.distortions import Received, Reference, encode, h264, kind_of, sense, video
from gearnn.finetune import _choose_weights, _step, finetune
from gearnn.finetune_job import Job
from gearnn.layers import Layer
from gearnn.levels import DistortionLevel, expand_levels
from gearnn.machine.compute import Compute
from gearnn.models import load_model
from gearnn.problems.segmentation import Batch, SemanticSegmentation
from gearnn.recipe import Recipe, make_optimizer
from tests.bench import benchmark, command, gearbox, mask_rcnn, runners, workflow
from tests.bench.gearbox import adaptor_layers
from tests.conftest import SHARED
from tests.shared.clips import strip

PROBLEM = SemanticSegmentation(num_classes=9, ignore_index=None, mean=(0.5,) * 3, std=(0.25,) * 3)
SIZE = (240, 180)


class Row:
    """One measured ratio with its target."""

    def __init__(self, what: str, measured: float, target: float, unit: str, detail: str) -> None:
        self.what, self.measured, self.target, self.unit, self.detail = what, measured, target, unit, detail
        self.met = measured <= target


def main() -> int:
    """Measure, print the table, say whether every target is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="turns of every pair")
    parser.add_argument("--only", default="", help="only rows whose function has this in its name")
    arguments = parser.parse_args()
    rounds = arguments.rounds
    benches: list[Callable[[int], Row]] = [
        partial_step,
        training_loop,
        orchestration,
        import_time,
        command_help,
        command_version,
        command_sense,
        command_doctor_help,
        command_adaptors,
        distorting_jpeg,
        distorting_h264,
        sensing_jpeg,
        sensing_resolution,
        sensing_brightness,
        sensing_h264_sei,
        sensing_h264_slices,
        crf_error_sei,
        crf_error_stripped,
        crf_error_quantisers_only,
        mask_rcnn_step,
        mask_rcnn_evaluation,
        mask_rcnn_memory,
        figure_time,
        report_size,
        report_opening,
        smoke_benchmark,
        runner_threads,
        runner_processes,
        runner_dask,
        orchestration_served,
        retrain_nothing,
        thousand_levels,
        gearbox_views,
        gearbox_in_place,
        gearbox_switching,
        gearbox_forward,
        gearbox_recompilations,
        gearbox_memory,
        gearbox_mixed,
        gearbox_soak,
    ]
    benches = [bench for bench in benches if arguments.only in bench.__name__]
    if not (SHARED / "data" / "camvid").is_dir():
        benches = [bench for bench in benches if not bench.__name__.startswith(("crf_error", "mask_rcnn_memory"))]
    rows = [bench(rounds) for bench in track(benches, description="measuring", console=Console(stderr=True))]
    table = Table(title=f"{os.cpu_count()} cores, torch {torch.__version__}, {Compute.resolve().precision}")
    for name in ("what", "measured", "target", "", "detail"):
        table.add_column(name)
    for row in rows:
        verdict = "met" if row.met else "MISSED"
        table.add_row(row.what, f"{row.measured:.3f} {row.unit}", f"<= {row.target:g}", verdict, row.detail)
    Console(width=150).print(table)
    return 0 if all(row.met for row in rows) else 1


def partial_step(rounds: int) -> Row:
    """A partial fine-tuning step against a full one: DRN-D-22, 8 frames of 240x180, an adaptor of 0.2 %."""
    base = load_model("drn_d_22", 9)
    full, partial = _Steps(base, None), _Steps(base, adaptor_layers(base))
    times = in_turns([full.step, partial.step], rounds)
    return Row("partial step / full step", ratio(times), 0.75, "", _milliseconds(times))


def training_loop(rounds: int) -> Row:
    """The training loop, reading and decoding frames included, against bare forward and backward passes."""
    base = load_model("drn_d_22", 9)
    compute = Compute.resolve()
    with tempfile.TemporaryDirectory() as folder:
        frames = Streets("train", 16, 0, Camera(size=SIZE))
        samples = DistortedDataset(frames, DistortionLevel.parse("jpeg:quality=10"), Path(folder))
        batches = [PROBLEM.collate([samples[i] for i in range(start, start + 8)]) for start in (0, 8)]
        model = compute.place(copy.deepcopy(base)).eval()
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3, momentum=0.9)

        def bare() -> None:
            for batch in batches:
                optimizer.zero_grad()
                with compute.autocast():
                    loss = PROBLEM.loss(model, PROBLEM.to(batch, compute))
                loss.backward()
                optimizer.step()

        def loop() -> None:
            seconds.append(_epoch_seconds(base, samples, compute))

        seconds: list[float] = []
        times = in_turns([bare, loop], rounds)
        times[1] = seconds[-rounds:]
    return Row("training loop / bare steps", ratio(times), 1.10, "", _milliseconds(times))


def orchestration(_: int) -> Row:
    """What Prefect and MLflow add to a level: a run whose steps are all in the store but that registers anew.

    Six levels against one, in fresh registries, so that the start of the servers cancels out.
    """
    with tempfile.TemporaryDirectory() as folder:
        plans = {count: _tiny_plan(Path(folder), count) for count in (1, 6)}
        for count, plan in plans.items():
            _adapt(plan, Path(folder) / f"warm-{count}")
        seconds = {count: _adapt(plan, Path(folder) / f"timed-{count}") for count, plan in plans.items()}
    per_level = (seconds[6] - seconds[1]) / 5
    return Row(
        "Prefect and MLflow, per level", per_level, 3.0, "s", f"1 level {seconds[1]:.1f} s, 6 {seconds[6]:.1f} s"
    )


def import_time(rounds: int) -> Row:
    """`import gearnn` with all of its public names, once torch is imported."""
    code = "import torch, time; t = time.perf_counter(); from gearnn import *; print(time.perf_counter() - t)"
    found = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(min(rounds, 5))
    ]
    return Row("import gearnn", statistics.median(found), 1.0, "s", "every public name used")


def command_help(_: int) -> Row:
    """Seconds of a processor before the command says what it can do."""
    return Row("processor time of a command", *_with_target(0.5, "s", command.seconds("--help")))


def command_version(_: int) -> Row:
    """The same of its version."""
    return Row("processor time of a command", *_with_target(0.5, "s", command.seconds("--version")))


def command_sense(_: int) -> Row:
    """The same of sensing one JPEG."""
    return Row("processor time of a command", *_with_target(1.5, "s", command.seconds("sense", "frame.jpg")))


def command_doctor_help(_: int) -> Row:
    """The same of one command's help."""
    return Row("processor time of a command", *_with_target(1.5, "s", command.seconds("doctor", "--help")))


def command_adaptors(_: int) -> Row:
    """The same of listing a registry that is empty; MLflow and its database are most of it."""
    return Row("processor time of a command", *_with_target(3.0, "s", command.seconds("adaptors")))


def distorting_jpeg(rounds: int) -> Row:
    """Filling the cache with JPEG frames against a bare loop over Pillow, 240 frames of 1280x720, two processes."""
    return _distorting("jpeg:quality=20", 240, rounds)


def distorting_h264(rounds: int) -> Row:
    """The same with H.264 against a bare loop over Pillow and PyAV, 120 frames."""
    return _distorting("h264:crf=23", 120, rounds)


def sensing_jpeg(rounds: int) -> Row:
    """The quality of a JPEG of 2048x1024 from its bytes; with tables of another encoder it takes longer."""
    data = encode(_photo(), "jpeg:quality=40")
    foreign = (Path(__file__).parent.parent / "distortions" / "files" / "mozjpeg_q75.jpg").read_bytes()
    took, other = (_each(lambda data=data: sense(data, closely=False), rounds, 1000) for data in (data, foreign))
    return Row("sensing JPEG", 1e6 * took, 50, "us a frame", f"mozjpeg's tables {1e6 * other:.0f} us")


def sensing_resolution(rounds: int) -> Row:
    """The scale of a frame of 1024x512 from the bytes of its H.264 stream; and of a JPEG of that size."""
    kind, half = kind_of("resolution"), encode(_photo(), "resolution:0.5")
    sizes = {1.0: _photo().size, 0.5: (1024, 512), 0.25: (512, 256)}
    references = [
        Reference(values={"scale": scale}, mean=(log2(w), log2(h)), covariance=((0.0, 0.0), (0.0, 0.0)))
        for scale, (w, h) in sizes.items()
    ]
    assert kind.measure is not None
    assert kind.compare is not None
    measure, compare = kind.measure, kind.compare
    took = _each(lambda: compare(measure(Received(half)), references), rounds, 1000)
    jpeg = encode(_photo(), "resolution:0.5+jpeg:quality=40")
    other = _each(lambda: compare(measure(Received(jpeg)), references), rounds, 1000)
    return Row(
        "sensing resolution", 1e6 * took, 20, "us a frame", f"from an H.264 stream; from a JPEG {1e6 * other:.0f} us"
    )


def sensing_brightness(rounds: int) -> Row:
    """The brightness of a decoded frame of 2048x1024, among 20 levels."""
    levels = expand_levels("paper/brightness")
    kind, photo = kind_of("brightness"), _photo()
    assert kind.measure is not None
    assert kind.compare is not None
    measure, compare = kind.measure, kind.compare
    features = [measure(Received(encode(photo.resize((256, 128)), level))) for level in levels]
    spread = tuple(tuple(0.1 * (i == j) for j in range(7)) for i in range(7))
    references = [
        Reference(values=dict(level.parts[0].parameters), mean=mean, covariance=spread)
        for level, mean in zip(levels, features, strict=True)
    ]
    received = Received(encode(photo, "brightness:factor=0.3"))
    assert received.image.size == (2048, 1024)
    took = _each(lambda: compare(measure(received), references), rounds, 50)
    return Row("sensing brightness", 1e3 * took, 2, "ms a frame", "2048x1024, decoded, among 20 levels")


def sensing_h264_sei(rounds: int) -> Row:
    """The CRF of a clip of one frame of 2048x1024 from x264's SEI."""
    data = encode(_photo(), "h264:crf=23")
    took = _each(lambda: sense(data), rounds, 200)
    return Row("sensing H.264, SEI", 1e3 * took, 1, "ms a frame", "2048x1024, from the bytes")


def sensing_h264_slices(rounds: int) -> Row:
    """The same without SEI: what reading the quantisers adds to decoding the frame."""
    data = strip(encode(_photo(), "h264:crf=23"))
    times = in_turns([lambda: video.decode_clip(data), lambda: h264.sense(Received(data))], 10 * rounds)
    plain, sensing = (statistics.median(found) for found in times)
    added = statistics.median(both - alone for alone, both in zip(*times, strict=True))
    detail = f"decoded in {1e3 * plain:.1f} ms, decoded and sensed in {1e3 * sensing:.1f} ms"
    return Row("sensing H.264, slices", 1e3 * added, 1, "ms a frame", detail)


def crf_error_sei(_: int) -> Row:
    """Mean error of the CRF that is sensed, over CRF 15 to 30 and CamVid's validation frames, with x264's SEI."""
    return _crf_error("CRF error, SEI present", lambda data: data)


def crf_error_stripped(_: int) -> Row:
    """The same with the SEI cut out of the streams."""
    return _crf_error("CRF error, SEI stripped", strip)


def crf_error_quantisers_only(_: int) -> Row:
    """The same as if the encoder had not written its CRF as the initial quantiser: slices' quantisers alone."""
    before, h264._SNAP = h264._SNAP, -1.0
    try:
        return _crf_error("CRF error, quantisers only", strip)
    finally:
        h264._SNAP = before


def mask_rcnn_step(rounds: int) -> Row:
    """A training step of Mask R-CNN (ResNet-50, shortest side 320, 2 frames) against torchvision in a bare loop."""
    times = in_turns(mask_rcnn.steps(), rounds)
    return Row("Mask R-CNN: step / bare torchvision step", ratio(times), 1.05, "", _milliseconds(times))


def mask_rcnn_evaluation(rounds: int) -> Row:
    """An evaluation of the same network, decoding aside but scores included, against its bare forward passes."""
    times = in_turns(mask_rcnn.evaluations(), rounds)
    return Row("Mask R-CNN: evaluation / bare forward passes", ratio(times), 1.05, "", _milliseconds(times))


def mask_rcnn_memory(_: int) -> Row:
    """Peak memory of a process that evaluates all of Penn-Fudan."""
    command = [sys.executable, "-m", "tests.bench.mask_rcnn", "memory"]
    peak = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return Row("Mask R-CNN: peak memory of 170 images", peak, 2.0, "GB", "ResNet-50, 100 detections a frame")


def _crf_error(what: str, change: Callable[[bytes], bytes]) -> Row:
    frames = open_split("camvid", SHARED / "data" / "camvid", "val", Camera(size=SIZE))
    errors = []
    for index in range(len(frames)):
        for crf in range(15, 31):
            data = change(encode(frames.frame(index), f"h264:crf={crf}"))
            errors.append(abs(float(dict(sense(data).level.parts[0].parameters)["crf"]) - crf))
    return Row(
        what, statistics.mean(errors), 1.0, "CRF", f"{len(frames)} frames, CRF 15 to 30, at most {max(errors):g}"
    )


def _distorting(level: str, number: int, rounds: int) -> Row:
    command = [sys.executable, "-m", "tests.bench.distorting", level, str(number), str(min(rounds, 5))]
    seconds = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    times = [seconds["bare"], seconds["filling"]]
    rates = " against ".join(f"{number / statistics.median(found):.0f} frames/s" for found in reversed(times))
    return Row(f"distorting {level} / bare loop", ratio(times), 1.15, "", rates)


def figure_time(_: int) -> Row:
    """The slowest figure of a benchmark of the paper's size."""
    return Row("slowest figure", *_with_target(2, "s", benchmark.slowest_figure()))


def report_size(_: int) -> Row:
    """The page of a benchmark of the paper's size."""
    return Row("report, size", *_with_target(5, "MB", benchmark.report_size()))


def report_opening(rounds: int) -> Row:
    """The same page in a browser."""
    return Row("report, opening it", *_with_target(1, "s", benchmark.report_opening(rounds)))


def smoke_benchmark(_: int) -> Row:
    """The smallest benchmark, from nothing to its report."""
    return Row("benchmark at smoke size", *_with_target(120, "s", benchmark.smoke()))


def runner_threads(_: int) -> Row:
    """The fan-out over two threads, against two processes without Prefect."""
    return Row("fan-out, 2 threads / 2 bare processes", *_with_target(1.25, "", runners.scaling("threads")))


def runner_processes(_: int) -> Row:
    """The same over two processes."""
    return Row("fan-out, 2 processes / 2 bare ones", *_with_target(1.25, "", runners.scaling("processes")))


def runner_dask(_: int) -> Row:
    """The same over two workers of a local Dask cluster."""
    return Row("fan-out, 2 Dask workers / 2 bare processes", *_with_target(1.25, "", runners.scaling("dask")))


def orchestration_served(_: int) -> Row:
    """What Prefect and MLflow add to a level, served from Postgres and asking for passwords."""
    return Row("Prefect, MLflow on servers, per level", *_with_target(3.0, "s", workflow.overhead()))


def retrain_nothing(_: int) -> Row:
    """A retraining that finds all in its place, the start of Python included."""
    return Row("retrain, nothing to do", *_with_target(10.0, "s", workflow.nothing_to_do()))


def thousand_levels(_: int) -> Row:
    """How the cost of a level grows with the number of levels."""
    return Row("1,000 levels / 100, per level", *_with_target(1.2, "", workflow.scale()))


def gearbox_views(_: int) -> Row:
    """Choosing a network among 100 levels."""
    return Row("gearbox: choosing a view of 100", *_with_target(1.0, "us", gearbox.views()))


def gearbox_in_place(_: int) -> Row:
    """Shifting one network among 100 levels, on one core."""
    return Row("gearbox: shifting in place, of 100", *_with_target(60.0, "us", gearbox.in_place()))


def gearbox_switching(_: int) -> Row:
    """The same beside other ways to switch weights."""
    return Row("gearbox: shift / fastest other way", *_with_target(0.05, "", gearbox.switching_peers()))


def gearbox_forward(rounds: int) -> Row:
    """A forward pass through the gearbox against the bare network."""
    return Row("gearbox: forward / bare network", *_with_target(1.01, "", gearbox.forward(rounds)))


def gearbox_recompilations(_: int) -> Row:
    """Recompilations of torch.compile over ten levels."""
    return Row("gearbox: recompilations", *_with_target(0.0, "", gearbox.recompilations()))


def gearbox_memory(_: int) -> Row:
    """Resident memory of base and nine adaptors over the base's."""
    return Row("gearbox: memory of nine adaptors", *_with_target(2.5, "%", gearbox.memory()))


def gearbox_mixed(_: int) -> Row:
    """A batch of eight frames at four levels against one at one level; 1.25 is 0.8 of the throughput."""
    return Row("gearbox: four levels / one level", *_with_target(1.25, "", gearbox.mixed()))


def gearbox_soak(_: int) -> Row:
    """A million switches each way and ten thousand mixed inferences."""
    return Row("gearbox: growth in the soak", *_with_target(5.0, "MB", gearbox.soak()))


def _with_target(target: float, unit: str, found: tuple[float, str]) -> tuple[float, float, str, str]:
    return found[0], target, unit, found[1]


def _photo() -> Image.Image:
    return Streets("photo", 1, 3, Camera(size=(2048, 1024), resample="bicubic")).frame(0)


def _each(call: Callable[[], object], rounds: int, times: int) -> float:
    """Seconds of one call, the median of rounds of many."""

    def many() -> None:
        for _ in range(times):
            call()

    return statistics.median(in_turns([many], rounds)[0]) / times


class _Steps:
    """Training steps of the library on one batch, without reading frames."""

    def __init__(self, base: nn.Module, layers: Sequence[Layer] | None) -> None:
        self.compute = Compute.resolve()
        self.model = self.compute.place(copy.deepcopy(base))
        trained = _choose_weights(self.model, layers)
        optimizer = make_optimizer(list(trained.values()), Recipe())
        self.job = Job(
            self.model, optimizer, trained, frozenset(),
            recipe=Recipe(), compute=self.compute, checkpoint=None, facts={},
        )  # fmt: skip
        self.job.set_mode()
        generator = torch.Generator().manual_seed(0)
        self.batch = Batch(
            images=torch.randn(8, 3, 184, 240, generator=generator),
            targets=torch.randint(0, 9, (8, 180, 240), generator=generator),
            size=(180, 240),
        )

    def step(self) -> None:
        with self.compute.training(self.model):
            _step(self.job, PROBLEM, PROBLEM.loss, self.batch, 1e-3, self.compute)


def in_turns(functions: Sequence[Callable[[], None]], rounds: int) -> list[list[float]]:
    """Seconds of every function, called in turns after a warm-up."""
    for function in functions:
        function()
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds):
        for function, found in zip(functions, times, strict=True):
            started = time.perf_counter()
            function()
            found.append(time.perf_counter() - started)
    return times


def ratio(times: list[list[float]]) -> float:
    """Median of the second over the median of the first."""
    return statistics.median(times[1]) / statistics.median(times[0])


def _milliseconds(times: list[list[float]]) -> str:
    return " against ".join(f"{1000 * statistics.median(found):.0f} ms" for found in reversed(times))


def _epoch_seconds(base: nn.Module, samples: DistortedDataset, compute: Compute) -> float:
    """Seconds of the second of two epochs: the loop without its start and end."""
    marks: list[float] = []
    recipe = Recipe(epochs=2, batch_size=8)
    finetune(base, samples, PROBLEM, recipe, compute=compute, on_step=lambda _: marks.append(time.perf_counter()))
    return marks[3] - marks[1]


def _tiny_plan(folder: Path, num_levels: int) -> Path:
    path = folder / f"plan-{num_levels}.yaml"
    levels = [f"jpeg:quality={10 + i}" for i in range(num_levels)]
    path.write_text(
        f"base: {{name: drn_d_22_quarter, num_classes: 9, train: {{epochs: 1}}}}\n"
        f"data: {{name: streets, frames: {{train: 8, val: 2, test: 2}}, camera: {{size: [48, 32]}}}}\n"
        f"levels: {levels}\nbound: {{fraction: 0.01}}\nfinetune: {{epochs: 1}}\nstore: {folder}/store\n"
    )
    return path


def _adapt(plan: Path, home: Path) -> float:
    """Seconds of one run of the command."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "gearnn", "adapt", str(plan)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "GEARNN_HOME": str(home)})
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
