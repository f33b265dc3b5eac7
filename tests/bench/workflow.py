"""What the workflow costs with real servers, and how that grows, for `make bench`."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml
from torch import nn

from tests.shared.servers import services

NUM_PLANS, LEVELS_OF_A_PLAN = 10, 20
NUM_LAYERS, FEW_LEVELS, MANY_LEVELS = 500, 100, 1000


def _plan(folder: Path, name: str, levels: list[str], **base: Any) -> Path:
    content = {
        "base": {"name": "drn_d_22_quarter", "num_classes": 9, "registered_as": name, **base},
        "data": {"name": "streets", "frames": {"train": 8, "val": 2, "test": 2}, "camera": {"size": [48, 32]}},
        "levels": levels,
        "bound": {"fraction": 0.01},
        "finetune": {"epochs": 1},
        "promotion": {"over_base": False},
        "store": f"{folder}/store",
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def _gearnn(*arguments: str, home: Path, environment: Mapping[str, str]) -> float:
    """Seconds of one command, from the start of Python to its end."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "gearnn", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment, "GEARNN_HOME": str(home)}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return time.perf_counter() - started


def overhead() -> tuple[float, str]:
    """Seconds a level with Prefect and MLflow on Postgres and a password: all is in the store, but registered anew."""
    with tempfile.TemporaryDirectory() as name, services(Path(name) / "services") as running:
        folder, seconds = Path(name), {}
        for count in (1, 6):
            levels = [f"jpeg:quality={10 + index}" for index in range(count)]
            for run in ("warm", "timed"):
                plan = _plan(folder, f"{run}-{count}", levels, train={"epochs": 1})
                seconds[count] = _gearnn("adapt", str(plan), home=folder / "home", environment=running.environment())
    return (seconds[6] - seconds[1]) / 5, f"1 level {seconds[1]:.1f} s, 6 levels {seconds[6]:.1f} s"


def nothing_to_do() -> tuple[float, str]:
    """Seconds of `gearnn retrain` over plans whose levels are all there, beside that of `--help`."""
    with tempfile.TemporaryDirectory() as name, services(Path(name) / "services") as running:
        folder = Path(name)
        environment = running.environment()
        (folder / "plans").mkdir()
        with patch.dict(os.environ, {**environment, "GEARNN_HOME": str(folder / "home")}):
            _register_plans(folder)
        home = folder / "home"
        bare = _gearnn("--help", home=home, environment=environment)
        dry = _gearnn("retrain", str(folder / "plans"), "--dry-run", home=home, environment=environment)
        seconds = _gearnn("retrain", str(folder / "plans"), home=home, environment=environment)
    what = f"{NUM_PLANS} plans, {NUM_PLANS * LEVELS_OF_A_PLAN} levels; --dry-run {dry:.1f} s, --help {bare:.1f} s"
    return seconds, what


def _register_plans(folder: Path) -> None:
    """Plans with bases of their own, and a version for each of their levels that was made from what they want."""
    from gearnn import registry
    from gearnn.adaptor import Adaptor
    from gearnn.layers import layers_of
    from gearnn.models import load_model, save_checkpoint
    from gearnn.plan import Plan
    from gearnn.plan.opened import Opened
    from gearnn.registry import runs
    from gearnn.registry.description import BaseDescription
    from gearnn.registry.names import TAG_MADE_FROM
    from tasks.adapting.base import prepare_base
    from tasks.adapting.data import digests_of
    from tasks.records import Data
    from tasks.registering.ingredients import ingredients_of

    levels = [f"jpeg:quality={5 + index}" for index in range(LEVELS_OF_A_PLAN)]
    for number in range(NUM_PLANS):
        torch.manual_seed(number)
        network = load_model("drn_d_22_quarter", 9)
        save_checkpoint(folder / f"base-{number}.safetensors", network)
        path = _plan(folder, f"net-{number}", levels, checkpoint=str(folder / f"base-{number}.safetensors"))
        path = path.rename(folder / "plans" / path.name)
        plan = Plan.load(path)
        opened = Opened(plan)
        data = Data(digests=digests_of(opened), num_frames={})
        base = prepare_base.run(opened, data)
        experiment = runs.experiment_id(plan.registered_base)
        parent = runs.plan_run(experiment, "bench", {})
        version = registry.register_base(
            plan.registered_base,
            opened.store.get(base.weights),
            base.fingerprint,
            BaseDescription.of("drn_d_22_quarter", 9, {}, opened.problem),
            run_id=parent,
            num_values=base.num_values,
        )
        for level in levels:
            adaptor = Adaptor.extract(network, network, layers_of(network)[-1:], level)
            adaptor.save(folder / "adaptor.safetensors")
            run, _ = runs.level_run(experiment, parent, level, f"{number} {level}")
            made_from = json.dumps(ingredients_of(opened, base, data, level))
            made = registry.register_adaptor(
                version, folder / "adaptor.safetensors", run_id=run, identity=f"{number} {level}",
                tags={TAG_MADE_FROM: made_from}, card="",
            )  # fmt: skip
            registry.decided(made.name, made.version, "is champion")
        registry.decided(version.name, version.version, "is champion")


class ManyLayers(nn.Module):
    """A network of many small layers, which nobody trains."""

    stride = 1

    def __init__(self, num_classes: int = 9, num_layers: int = NUM_LAYERS) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(num_layers - 1))
        self.head = nn.Conv2d(3, num_classes, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x)


def scale() -> tuple[float, str]:
    """Seconds a level of 1,000 over those of 100, each less what the first costs; nothing is trained."""
    with tempfile.TemporaryDirectory() as name:
        one, *rest = (_simulated(Path(name) / str(count), count) for count in (1, FEW_LEVELS, MANY_LEVELS))
    few, many = ((s - one) / (count - 1) for s, count in zip(rest, (FEW_LEVELS, MANY_LEVELS), strict=True))
    what = f"{1000 * few:.0f} ms a level of {FEW_LEVELS}, {1000 * many:.0f} ms of {MANY_LEVELS}; {NUM_LAYERS} layers"
    return many / few, what


def _simulated(folder: Path, num_levels: int) -> float:
    """Seconds of the flow with fine-tunes and scores that cost nothing."""
    levels = [f"jpeg:quality={q}+brightness:factor=0.{f:02d}" for q in range(1, 51) for f in range(30, 50)]
    folder.mkdir()
    path = _plan(folder, "many", levels[:num_levels])
    content = yaml.safe_load(path.read_text())
    content["base"] |= {"module": "tests.bench.workflow:ManyLayers", "train": {"epochs": 1}}
    content["base"].pop("name")
    content["data"]["frames"] = {"train": 1, "val": 1}
    content |= {"problem": {"name": "semantic_segmentation"}, "workers": 2}
    path.write_text(yaml.safe_dump(content))
    code = f"from tests.bench.workflow import adapt_untrained; adapt_untrained({str(path)!r})"
    environment = {**os.environ, "GEARNN_HOME": str(folder / "home"), "PREFECT_HOME": str(folder / "prefect")}
    environment |= {"PREFECT_LOGGING_LEVEL": "WARNING", "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180"}
    environment |= {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "true"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return float(done.stdout.split()[-1])


def adapt_untrained(path: str) -> None:
    """The main job with another noise instead of each fine-tune, and one score for all."""
    from flows.adapt import adapt
    from gearnn.plan import Plan

    with _untrained():
        started = time.perf_counter()
        adapt(Plan.load(path))
        sys.stdout.write(f"\n{time.perf_counter() - started}\n")


@contextmanager
def _untrained() -> Iterator[None]:
    import copy

    from gearnn.finetune import FineTuned

    def noise(base: nn.Module, samples: Any, *_: Any, layers: Any = None, **__: Any) -> FineTuned:
        model = copy.deepcopy(base)
        wanted = None if layers is None else {weight for layer in layers for weight in layer.weights}
        generator = torch.Generator().manual_seed(abs(hash(str(samples.level))) % 2**31)
        with torch.no_grad():
            for weight, value in model.named_parameters():
                if wanted is None or weight in wanted:
                    value += 1e-3 * torch.randn(value.shape, generator=generator)
        return FineTuned(model=model, epoch_losses=(1.0,))

    with patch("tasks.adapting.finetune.finetune", noise), patch("tasks.adapting.base.finetune", noise):
        yield
