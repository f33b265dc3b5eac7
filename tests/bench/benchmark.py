"""The cost of a benchmark's figures and page, and of the smallest benchmark whole, for `make bench`."""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from gearnn.evaluation import solutions
from gearnn.evaluation.figures import save
from gearnn.evaluation.memory import memory_table
from gearnn.evaluation.report import write_report
from gearnn.layers import layers_of
from gearnn.models import load_model
from gearnn.plan import Plan
from gearnn.store.storage import Ref
from tasks.benchmarking.figures import Findings, draw
from tasks.benchmarking.report import compose
from tasks.records import Base, Data
from tests.conftest import REPOSITORY
from tests.shared.results import row

PLAN = {
    "base": {"name": "drn_d_22", "num_classes": 11, "train": {}},
    "data": {"name": "streets", "frames": {"train": 1, "val": 1, "test": 1}, "camera": {"size": [480, 360]}},
    "levels": ["paper/jpeg"],
    "benchmark": {"bounds": {"levels": ["jpeg:quality=10"]}, "frequency": {}},
}


def findings() -> Findings:
    """Made-up findings as large as those of the paper's ten levels, every solution, DRN-D-22, frames of 480x360."""
    random = np.random.default_rng(0)
    plan = Plan.read(PLAN, source="bench")
    rows = [
        row(solution, level, float(50 + 5 * random.random()), seed=seed, run_id="0" * 32)
        for solution in solutions.BENCHMARKED
        for level in plan.levels
        for seed in (0, 1)
    ]
    rows += [
        row(solutions.ADAPTOR, tested, 50.0, level_trained=own)
        for own in plan.levels[:-1]
        for tested in plan.levels
        if own != tested
    ]
    rows += [
        row(solutions.ADAPTOR, "jpeg:quality=10", 51.0, setting=f"bound={b} %", num_values=b) for b in (1, 2, 3, 4)
    ]
    layers = layers_of(load_model("drn_d_22", 11))
    table = pd.DataFrame(
        {
            "layer": [layer.name for layer in layers],
            "kind": [layer.kind for layer in layers],
            "num_weights": [layer.num_weights for layer in layers],
            "sensitivity": random.random(len(layers)) * 1e-3,
            "share_changed": random.random(len(layers)),
            "sensitivity_pristine": random.random(len(layers)) * 1e-5,
        }
    )
    picture = random.integers(0, 255, (45, 60, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)  # textured as a mask is
    titles = ("frame", "truth", solutions.BASE, solutions.ADAPTOR, solutions.FULL)
    maps = {name: random.random((3, 8, 8)) + 0.1 for name in (solutions.BASE, solutions.MIXED, solutions.ADAPTOR)}
    return Findings(
        plan=plan,
        base=Base(weights=Ref(uri="objects/x", sha256="x", size=1), fingerprint="f", num_values=15_900_987),
        data=Data(digests={}, num_frames={"test": 101}),
        table=pd.DataFrame(rows),
        sensitivities=dict.fromkeys(plan.levels[:-1], table),
        responses=maps,
        whole_responses={name: random.random((3, 360, 480)) + 0.1 for name in maps},
        memory=memory_table(15_900_987, 31_801, 9, dict.fromkeys(solutions.BENCHMARKED, (1, 1, 1))),
        examples=[{level: dict.fromkeys(titles, picture) for level in plan.levels[:4]}] * 2,
        run_id="0" * 32,
        failures=(),
    )


def slowest_figure() -> tuple[float, str]:
    """Seconds of the slowest figure, drawn and written as PNG and SVG; and its name."""
    found, seconds = findings(), {}
    draw(found)  # fonts are read once
    with tempfile.TemporaryDirectory() as folder:
        for name, figure in draw(found).items():
            started = time.perf_counter()
            save(figure, Path(folder) / name)
            seconds[name] = time.perf_counter() - started
    name = max(seconds, key=lambda name: seconds[name])
    return seconds[name], f"{name}; {len(seconds)} figures in {sum(seconds.values()):.1f} s"


def report_size() -> tuple[float, str]:
    """MB of the page of ten levels and eleven solutions."""
    with tempfile.TemporaryDirectory() as folder:
        size = _write(Path(folder)).stat().st_size
    return size / 1e6, "10 levels, 11 solutions, 2 seeds, 8 rows of examples"


def report_opening(rounds: int) -> tuple[float, str]:
    """Seconds that Chromium takes longer for the page than for an empty one, from its start to a screenshot."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("bench: report_opening needs chromium")
    with tempfile.TemporaryDirectory() as folder:
        page, empty = _write(Path(folder)), Path(folder) / "empty.html"
        empty.write_text("<!doctype html><title>empty</title>")
        seconds: dict[Path, list[float]] = {page: [], empty: []}
        for _ in range(min(rounds, 5)):
            for path, found in seconds.items():
                started = time.perf_counter()
                command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,900"]
                target = f"--screenshot={folder}/shot.png"
                subprocess.run([*command, target, path.as_uri()], check=True, capture_output=True, timeout=60)
                found.append(time.perf_counter() - started)
    loaded, nothing = (statistics.median(found) for found in seconds.values())
    return loaded - nothing, f"{loaded:.2f} s against {nothing:.2f} s for an empty page"


def smoke() -> tuple[float, str]:
    """Seconds of `gearnn benchmark flows/plans/streets_benchmark.yaml` in an empty folder."""
    plan = REPOSITORY / "flows" / "plans" / "streets_benchmark.yaml"
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        command = [sys.executable, "-m", "gearnn", "benchmark", str(plan)]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        subprocess.run(command, check=True, capture_output=True, cwd=folder, env=environment)
        return time.perf_counter() - started, "streets, two seeds, three levels, every solution"


def _write(folder: Path) -> Path:
    found = findings()
    write_report(folder / "report.html", compose(found, draw(found)))
    return folder / "report.html"
