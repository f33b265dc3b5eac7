"""The gearbox's part of `make bench`: switching, forward passes, memory, mixed batches, and the soak.

DRN-D-22 with adaptors of 0.2 % throughout; peers are measured beside it in the same run.
"""

import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gearnn.adaptor import Adaptor
from gearnn.datasets import Camera
from gearnn.datasets.streets import Streets
from gearnn.distortions import encode
from gearnn.evaluation.memory import resident_bytes
from gearnn.gearbox import GearBox
from gearnn.gears.holding import Hold
from gearnn.knapsack import select_layers
from gearnn.layers import Layer, fingerprint, layers_of
from gearnn.levels import DistortionLevel
from gearnn.models import load_model, save_checkpoint
from gearnn.problems.segmentation import SemanticSegmentation

PROBLEM = SemanticSegmentation(num_classes=9, ignore_index=None, mean=(0.5,) * 3, std=(0.25,) * 3)
Measured = tuple[float, str]


def adaptor_layers(base: nn.Module) -> list[Layer]:
    """Layers of a nominal adaptor: sensitivities that fall with size, as those of real fine-tunes do."""
    layers = layers_of(base)
    sizes = [layer.num_values for layer in layers]
    chosen = select_layers([1e-3 / size**0.5 for size in sizes], sizes, bound=31_814)
    return [layers[i] for i in chosen]


def make_adaptors(base: nn.Module, number: int) -> list[Adaptor]:
    """Adaptors of 0.2 % for JPEG qualities from 1 on, whose values differ from level to level."""
    layers, state, own = adaptor_layers(base), base.state_dict(), fingerprint(base)
    names = [name for layer in layers for name in layer.weights]
    return [
        Adaptor(
            level=DistortionLevel.parse(f"jpeg:quality={i}" if i < 100 else "brightness:factor=0.5"),
            base_fingerprint=own,
            layers=tuple(layer.name for layer in layers),
            bound=31_814,
            batchnorm_statistics="frozen",
            tensors={name: state[name] * (1.0 + 1e-4 * i) for name in names},
        )
        for i in range(1, number + 1)
    ]


def _box(number: int, hold: Hold = "views", base: nn.Module | None = None) -> GearBox:
    base = base or load_model("drn_d_22", 9)
    return GearBox(base, make_adaptors(base, number), PROBLEM, hold=hold)


def _seconds(call: Callable[[], object], times: int, rounds: int = 5) -> float:
    """Seconds of one call, the median of rounds of many, after a warm-up."""
    found = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        for _call in range(times):
            call()
        found.append((time.perf_counter() - started) / times)
    return statistics.median(found[1:])


def views() -> Measured:
    """Microseconds to choose a view among 100 levels."""
    took = {}
    for number in (1, 10, 100):
        box = _box(number)
        levels = box.levels
        took[number] = _seconds(lambda box=box, level=levels[-1]: box.model(level), 100_000) * 1e6
    return took[100], ", ".join(f"{number} levels {us:.2f} us" for number, us in took.items())


def in_place() -> Measured:
    """Microseconds to shift gears in place among 100 levels, on one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        took = {number: _shift(_box(number, "in_place")) for number in (1, 10, 100)}
    finally:
        torch.set_num_threads(threads)
    return took[100], ", ".join(f"{number} levels {us:.1f} us" for number, us in took.items())


def _shift(box: GearBox) -> float:
    """Microseconds of a shift from one level to another; addresses stay."""
    levels = [*box.levels, DistortionLevel()]
    addresses = [t.data_ptr() for t in box.gears.networks()[0].parameters()]
    state = {"at": 0}

    def shift() -> None:
        state["at"] = (state["at"] + 1) % len(levels)
        box.shift(levels[state["at"]])

    found = _seconds(shift, 5_000) * 1e6
    assert [t.data_ptr() for t in box.gears.networks()[0].parameters()] == addresses
    return found


def switching_peers() -> Measured:
    """A shift in place over the fastest of load_state_dict, a reload from disk, and PEFT where it is installed."""
    base = load_model("drn_d_22", 9)
    ours = _shift(_box(10, "in_place", base))
    state = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    peers = {"load_state_dict": 1e6 * _seconds(lambda: base.load_state_dict(state), 10)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "base.safetensors"
        save_checkpoint(path, base)
        peers["a reload from disk"] = 1e6 * _seconds(lambda: load_model("drn_d_22", 9, path), 2)
    for number in (2, 40):
        peft = _peft(number)
        if peft is not None:
            peers[f"PEFT set_adapter, {number} adapters"] = peft
    fastest = min(peers.values())
    told = ", ".join(f"{name} {us / 1000:.1f} ms" for name, us in peers.items())
    missing = "" if _peft(2) is not None else "; PEFT is not installed"
    return ours / fastest, f"{ours:.1f} us against {told}{missing}"


def _peft(number: int) -> float | None:
    """Microseconds of PEFT's set_adapter on the convolutions of a DRN; None where it is not installed."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        return None
    base = load_model("drn_d_22", 9)
    names = [name for name, module in base.named_modules() if isinstance(module, nn.Conv2d)]
    config = LoraConfig(r=1, target_modules=names)
    model: Any = get_peft_model(base, config, adapter_name="a0")
    for i in range(1, number):
        model.add_adapter(f"a{i}", config)
    turn = {"at": 0}

    def switch() -> None:
        turn["at"] = (turn["at"] + 1) % number
        model.set_adapter(f"a{turn['at']}")

    return 1e6 * _seconds(switch, 20)


def forward(rounds: int) -> Measured:
    """A forward pass through the gearbox against the bare network: median of the ratios of 50 interleaved pairs."""
    x, told, worst = torch.randn(1, 3, 184, 240), [], 0.0
    for hold in ("views", "in_place"):
        box = _box(9, hold)  # type: ignore[arg-type]
        level = box.levels[4]
        network = box.gears.networks()[-1] if hold == "in_place" else box.model(level)
        box(x, level)
        bare, geared = partial(_bare, network, x), partial(box, x, level)
        ratios = _pairs(bare, geared, max(50, rounds))
        middle, low, high = _median_with_interval(ratios)
        worst = max(worst, middle)
        told.append(f"{hold} {middle:.4f} ({low:.4f} to {high:.4f})")
    return worst, "median and its 95 % interval: " + ", ".join(told)


@torch.inference_mode()
def _bare(network: nn.Module, x: Tensor) -> Any:
    return network(x)


def _pairs(one: Callable[[], object], other: Callable[[], object], number: int) -> list[float]:
    """Ratios of the second to the first, in pairs whose order alternates."""
    found = []
    for i in range(number):
        seconds = {}
        for call in (one, other) if i % 2 else (other, one):
            started = time.perf_counter()
            call()
            seconds[call] = time.perf_counter() - started
        found.append(seconds[other] / seconds[one])
    return found


def _median_with_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The median with its bootstrap interval of 95 %."""
    generator = np.random.default_rng(0)
    draws = np.median(generator.choice(values, size=(2000, len(values))), axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(np.median(values)), float(low), float(high)


def recompilations() -> Measured:
    """Programs compiled beyond the first, over ten levels and both ways."""
    x, extra, told = torch.randn(1, 3, 64, 64), 0, []
    for hold in ("views", "in_place"):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        base = load_model("drn_d_22_quarter", 9)
        box = GearBox(base, make_adaptors(base, 10), PROBLEM, hold=hold)  # type: ignore[arg-type]
        box.compile()
        for level in (*box.levels, "pristine", *box.levels):
            compiled = box(x, level)
        programs = int(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        plain = GearBox(base, make_adaptors(base, 10), PROBLEM)(x, box.levels[-1])
        difference = float((compiled - plain).abs().max() / plain.abs().max())
        extra += programs - 1
        told.append(f"{hold} {programs} program for 11 networks, outputs within {difference:.0e}")
    return float(extra), ", ".join(told)


def memory() -> Measured:
    """Resident memory of base and nine adaptors over the base's alone, in percent; and process memory."""
    told, worst = [], 0.0
    for hold in ("views", "in_place"):
        shares = []
        for number in (9, 100):
            base = load_model("drn_d_22", 9)
            rows = GearBox(base, make_adaptors(base, number), hold=hold).memory()  # type: ignore[arg-type]
            shares.append(100 * (rows[-1].resident / resident_bytes([base]) - 1))
        worst = max(worst, shares[0])
        told.append(f"{hold} {shares[0]:.2f} %, 100 levels {shares[1]:.1f} %")
    grown = [_process_growth(number) for number in (9, 100)]
    told.append(f"process memory {grown[0]:.1f} % and {grown[1]:.1f} %")
    return worst, ", ".join(told)


def _process_growth(number: int) -> float:
    """Growth of a fresh process's memory by a gearbox, in percent of the base's bytes."""
    code = f"from tests.bench.gearbox import _print_growth; _print_growth({number})"
    command = [sys.executable, "-c", code]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(3)]
    found = list(map(float, runs))
    return statistics.median(found)


def _print_growth(number: int) -> None:
    base = load_model("drn_d_22", 9)
    with tempfile.TemporaryDirectory() as folder:
        for index, adaptor in enumerate(make_adaptors(base, number)):
            adaptor.save(Path(folder) / f"{index}.safetensors")
        del adaptor
        GearBox(base, [Adaptor.load(Path(folder) / "0.safetensors")])  # what the first one brings is not an adaptor's
        gc.collect()
        before = _resident()
        box = GearBox(base, map(Adaptor.load, sorted(Path(folder).iterdir())))
        gc.collect()
        after = _resident()
    assert len(box.levels) == number
    sys.stdout.write(f"{100 * (after - before) / resident_bytes([base])}")


def _resident() -> int:
    """Bytes of this process in memory, without what was let go and only not given back yet."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def mixed() -> Measured:
    """Time of a batch of eight frames at four levels over that of one at one level; 0.8 of the throughput is 1.25."""
    found = {precision: _mixed(precision == "bf16") for precision in ("fp32", "bf16")}
    told = [f"{name}: {1 / ratio:.2f} of the throughput at one level" for name, ratio in found.items()]
    return max(found.values()), "; ".join(told)


def _mixed(bf16: bool) -> float:
    """Time of a mixed batch over that of a batch at one level."""
    box = _box(4)
    x = torch.randn(8, 3, 184, 240).to(memory_format=torch.channels_last)
    one, four = box.model(box.levels[0]), box.mixed([box.levels[i % 4] for i in range(8)])
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        for network in (one, four):
            _bare(network, x)
        return statistics.median(_pairs(partial(_bare, one, x), partial(_bare, four, x), 15))


def soak(switches: int = 1_000_000, inferences: int = 10_000) -> Measured:
    """Growth of the process, in MB, over a million switches each way and ten thousand mixed inferences."""
    base = load_model("drn_d_22_quarter", 9)
    scenes = Streets("val", 4, 0, Camera(size=(48, 32)))
    frames = [encode(scenes.frame(i), f"jpeg:quality={q}") for i, q in enumerate((2, 5, 9, 100))]
    boxes = {hold: GearBox(base, make_adaptors(base, 9), PROBLEM, hold=hold) for hold in ("views", "in_place")}  # type: ignore[arg-type]
    x = torch.randn(1, 3, 32, 48)
    levels = [*boxes["views"].levels, DistortionLevel()]
    before = {hold: [box(x, level) for level in levels] for hold, box in boxes.items()}
    first = boxes["views"].infer(frames)
    for _ in range(300):
        boxes["views"].infer(frames)
    gc.collect()
    start = _resident()
    for i in range(switches):
        boxes["views"].model(levels[i % len(levels)])
        boxes["in_place"].shift(levels[i % len(levels)])
    off = 0
    for _ in range(inferences // len(frames)):
        answers = boxes["views"].infer(frames)
        off += any(not torch.equal(a.prediction, b.prediction) for a, b in zip(answers, first, strict=True))
    gc.collect()
    grown = (_resident() - start) / 1e6
    drift = 0
    for hold, box in boxes.items():
        drift += sum(not torch.equal(box(x, level), b) for level, b in zip(levels, before[hold], strict=True))
    facts = {"switches": 2 * switches, "frames": inferences, "answers that changed": off, "outputs that drifted": drift}
    return grown, json.dumps(facts)
