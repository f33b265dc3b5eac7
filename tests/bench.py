"""`make bench`: what the project promises about cost, as ratios measured side by side in one run.

Machines are shared and noisy: every pair is measured in turns, and the medians are compared. Each
row says its target; a missed target makes the exit status 1, and is the figure to report.
"""

import argparse
import copy
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

from gearnn.compute import Compute
from gearnn.datasets import Camera, DistortedDataset
from gearnn.datasets.streets import Streets
from gearnn.finetune import _choose_weights, _Job, _step, finetune
from gearnn.knapsack import select_layers
from gearnn.layers import Layer, layers_of
from gearnn.levels import DistortionLevel
from gearnn.models import load_model
from gearnn.problem import Batch, SemanticSegmentation
from gearnn.recipe import Recipe, make_optimizer

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
    rounds = parser.parse_args().rounds
    benches: list[Callable[[int], Row]] = [partial_step, training_loop, orchestration, import_time]
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


class _Steps:
    """Training steps of the library on one batch, without reading frames."""

    def __init__(self, base: nn.Module, layers: Sequence[Layer] | None) -> None:
        self.compute = Compute.resolve()
        self.model = self.compute.place(copy.deepcopy(base))
        trained = _choose_weights(self.model, layers)
        self.optimizer = make_optimizer(list(trained.values()), Recipe())
        _Job(self.model, self.optimizer, trained, Recipe(), {}, None).set_mode()
        generator = torch.Generator().manual_seed(0)
        self.batch = Batch(
            images=torch.randn(8, 3, 184, 240, generator=generator),
            targets=torch.randint(0, 9, (8, 180, 240), generator=generator),
            size=(180, 240),
        )

    def step(self) -> None:
        with self.compute.training(self.model):
            _step(self.model, PROBLEM, self.batch, self.optimizer, 1e-3, self.compute)


def adaptor_layers(base: nn.Module) -> list[Layer]:
    """Layers of a nominal adaptor: sensitivities that fall with size, as those of real fine-tunes do."""
    layers = layers_of(base)
    sizes = [layer.num_values for layer in layers]
    chosen = select_layers([1e-3 / size**0.5 for size in sizes], sizes, bound=31_814)
    return [layers[i] for i in chosen]


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
        f"data: {{name: streets, frames: {{train: 8, val: 2}}, camera: {{size: [48, 32]}}}}\n"
        f"levels: {levels}\nbound: {{fraction: 0.01}}\nfinetune: {{epochs: 1}}\nstore: {folder}/store\n"
    )
    return path


def _adapt(plan: Path, home: Path) -> float:
    """Seconds of one run of the command."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "flows.cli", "adapt", str(plan)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "GEARNN_HOME": str(home)})
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
