"""`make torture`: gears of every network of torchvision and timm beside plain deep copies.

Every network of torchvision, and of timm those that build in two seconds, gets adaptors for two levels, of its
first and last layers and of all layers that fit a hundredth of it. Gears, held both ways, run frames that the
gearbox's own check has not seen, after the base has run others. The reference is a deep copy into which the
adaptor's tensors were written by name, made here, not by the library. A network is right, refused with a
reason, or wrong.

Each family's smallest network runs first, then all others by size: what is stopped early has seen most code.

    python -m tests.torture [--only WORD] [--most 100] [--part 1/2] [--resume] [--output .gearnn/torture.jsonl] [--show]
"""

import argparse
import copy
import json
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from operator import itemgetter
from pathlib import Path
from typing import Any, get_args

import torch
import torchvision
from torch import Tensor, nn

from gearnn.adaptor import Adaptor
from gearnn.errors import GearNNError
from gearnn.gearbox import GearBox
from gearnn.gears.holding import Hold
from gearnn.layers import Layer, fingerprint, layers_of
from gearnn.levels import DistortionLevel

LEVELS = "jpeg:quality=10", "jpeg:quality=50"
MOST_SECONDS = 2.0
"""Of a processor, to build a network of timm."""
OF_TORCHVISION = 250.0
"""Million values of a network of torchvision at most; its two larger ones need more memory than there is."""
_SAME = 1e-4  # of the largest value; levels differ by far more


Build = Callable[[], nn.Module]


def networks(only: str) -> Iterator[tuple[str, str, Build]]:
    """(family, name, builder) of every network whose name holds a word."""
    models = torchvision.models
    detectors = models.list_models(module=models.detection)
    for name in models.list_models():
        options: dict[str, Any] = {"weights": None}
        if name in detectors or name in models.list_models(module=models.segmentation):
            options["weights_backbone"] = None
        if name in detectors:
            options["box_score_thresh" if "rcnn" in name else "score_thresh"] = 0.0  # untrained, they find little
            if not name.startswith("ssd"):
                options |= {
                    "min_size": 128,
                    "max_size": 160,
                }  # they enlarge frames, to 800 pixels if left to themselves
        if only in f"torchvision/{name}":
            yield (
                models.get_model_builder(name).__module__,
                f"torchvision/{name}",
                partial(models.get_model, name, **options),
            )
    import timm

    for name in timm.list_models():
        if only in f"timm/{name}":
            yield (
                timm.model_entrypoint(name).__module__,
                f"timm/{name}",
                partial(timm.create_model, name, pretrained=False),
            )


def in_order(only: str) -> list[tuple[str, int, Build]]:
    """(name, number of values, builder) of all of them: each family's smallest, then the others by size."""
    found = sorted(
        ((num_values(build), name, family, build) for family, name, build in networks(only)), key=itemgetter(0)
    )
    first, others, seen = [], [], set()
    for values, name, family, build in found:
        (others if family in seen else first).append((name, values, build))
        seen.add(family)
    return first + others


def num_values(build: Build) -> int:
    """Values of a network, counted without building it; 0 where that cannot be done."""
    try:
        with torch.device("meta"):
            return sum(p.numel() for p in build().parameters())
    except Exception:
        return 0


def frames(name: str, network: nn.Module, seed: int) -> Iterator[Any]:
    """Batches that a network may take, the cheapest first."""
    generator = torch.Generator().manual_seed(seed)
    if any(word in name for word in ("rcnn", "retinanet", "fcos", "ssd")):
        yield [torch.rand(3, 96, 96, generator=generator) for _ in range(2)]
        return
    if "raft" in name:  # optical flow from one frame to another
        yield tuple(torch.rand(2, 3, 128, 128, generator=generator) * 2 - 1 for _ in range(2))
        return
    stated = (getattr(network, "default_cfg", None) or {}).get("input_size", (3, 224, 224))
    for side in dict.fromkeys((64, stated[-1], 224, 256, 112)):
        yield torch.randn(2, stated[0], side, side, generator=generator)
    yield torch.randn(1, 3, 16, 112, 112, generator=generator)  # video
    yield torch.randn(2, 3, 16, 224, 224, generator=generator)


def adapted_layers(network: nn.Module) -> list[Layer]:
    """The first and the last layer, and the smallest ones up to a hundredth of the network."""
    layers = layers_of(network)
    room = sum(layer.num_weights for layer in layers) // 100
    chosen = {layers[0].name, layers[-1].name}
    for layer in sorted(layers, key=lambda layer: layer.num_weights):
        room -= layer.num_weights
        if room < 0:
            break
        chosen.add(layer.name)
    return [layer for layer in layers if layer.name in chosen]


def adaptors(network: nn.Module) -> list[Adaptor]:
    """Adaptors of the same layers with other values at each level."""
    layers, state, own = adapted_layers(network), network.state_dict(), fingerprint(network)
    names = [name for layer in layers for name in layer.weights]
    found = []
    for number, level in enumerate(LEVELS, start=1):
        generator = torch.Generator().manual_seed(number)
        tensors = {}
        for name in names:
            values = state[name].float()
            noise = torch.randn(values.shape, generator=generator)
            least = 0.5 if values.ndim < 3 else 0.01  # biases and scales often start at next to nothing
            size = values.square().mean().sqrt().clamp(min=least)
            tensors[name] = values * (1 + 0.1 * number) + 0.1 * number * noise * size
        found.append(
            Adaptor(
                level=DistortionLevel.parse(level),
                base_fingerprint=own,
                layers=tuple(layer.name for layer in layers),
                bound=sum(t.numel() for t in tensors.values()),
                batchnorm_statistics="frozen",
                tensors=tensors,
            )
        )
    return found


def reference(base: nn.Module, adaptor: Adaptor | None) -> nn.Module:
    """What a level's own network is: a deep copy with the adaptor's tensors, in evaluation mode after training."""
    network = copy.deepcopy(base)
    state = network.state_dict()
    with torch.no_grad():
        for name, tensor in (adaptor.tensors if adaptor else {}).items():
            state[name].copy_(tensor)
    return network.train().eval()


def leaves(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if isinstance(output, Mapping) else output if isinstance(output, list | tuple) else []
    return [leaf for value in values for leaf in leaves(value)]


def off(found: Any, expected: Any) -> float:
    """Largest difference as a share of the largest value."""
    ours, theirs = leaves(found), leaves(expected)
    if [t.shape for t in ours] != [t.shape for t in theirs]:
        return float("inf")
    return max((_off(a, b) for a, b in zip(ours, theirs, strict=True)), default=0.0)


def _off(a: Tensor, b: Tensor) -> float:
    a, b = a.double(), b.double()
    if not a.numel() or torch.equal(a, b):
        return 0.0
    if not torch.equal(a.isfinite(), b.isfinite()):
        return float("inf")
    a, b = a[b.isfinite()], b[b.isfinite()]
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)) if a.numel() else 0.0


def run(network: nn.Module, batch: Any) -> Any:
    """What a network gives for a batch, or for a tuple of arguments."""
    return network(*batch) if isinstance(batch, tuple) else network(batch)


@torch.inference_mode()
def outputs(base: nn.Module, made: list[Adaptor], batch: Any) -> dict[str, Any]:
    """What every level's own network gives, the base's first; and a function of what it gives for its frame alone."""
    found = {"pristine": run(reference(base, None), batch)}
    for index, adaptor in enumerate(made):
        found[str(adaptor.level)] = run(reference(base, adaptor), batch)
        found[f"{adaptor.level} alone"] = cache(partial(_alone, base, adaptor, batch[index : index + 1]))
    return found


@torch.inference_mode()
def _alone(base: nn.Module, adaptor: Adaptor, frame: Any) -> Any:
    return reference(base, adaptor)(frame)


@torch.inference_mode()
def verdict(hold: Hold, base: nn.Module, made: list[Adaptor], batch: Any, other: Any, expected: Any) -> str:
    """``right``, ``refused: why``, or ``WRONG: how``."""
    run(base, other)  # whatever the base keeps between calls, it keeps now
    try:
        with torch.inference_mode(False):
            box = GearBox(base, made, hold=hold, example=other if isinstance(other, tuple) else None)
    except GearNNError as error:
        return f"refused: {error}"
    wrong = {}
    for level in (*LEVELS, "pristine", LEVELS[0]):
        found = off(_at(box, level, batch), expected[level])
        if found > _SAME:
            wrong[level] = found
    if wrong:
        return f"WRONG: {wrong}"
    return _mixed_verdict(box, batch, expected)


def _at(box: GearBox, level: str, batch: Any) -> Any:
    if not isinstance(batch, tuple):
        return box(batch, level)
    with box.at(level) as network:
        return network(*batch)


def _mixed_verdict(box: GearBox, batch: Any, expected: dict[str, Any]) -> str:
    """The same of a batch whose frames have both levels."""
    if isinstance(batch, tuple) or len(batch) != 2:
        return "right"
    try:
        found = box.mixed(LEVELS)(batch)
    except GearNNError as error:
        return f"right; mixed batches refused: {error}"
    for index, level in enumerate(LEVELS):
        mine = found[index : index + 1] if isinstance(found, list) else _row(found, index)
        difference = off(mine, expected[f"{level} alone"]())
        if difference > _SAME:
            return f"WRONG: frame {index} of a mixed batch is off by {difference:.2g}"
    return "right"


def _row(output: Any, index: int) -> Any:
    if isinstance(output, Tensor):
        return output[index : index + 1]
    if isinstance(output, Mapping):
        return {key: _row(value, index) for key, value in output.items()}
    return [_row(value, index) for value in output]


def tried(name: str, build: Build) -> dict[str, Any]:
    """One network's row."""
    torch.manual_seed(0)
    started = time.process_time()
    try:
        base = build().eval()
    except Exception as error:
        return {"name": name, "skipped": f"not built: {type(error).__name__}: {' '.join(str(error).split())[:100]}"}
    if time.process_time() - started > MOST_SECONDS and not name.startswith("torchvision/"):
        return {"name": name, "skipped": f"takes more than {MOST_SECONDS:g} s to build"}
    made = adaptors(base)
    for batch, other in zip(frames(name, base, 1), frames(name, base, 2), strict=True):
        try:
            expected = outputs(base, made, batch)
        except Exception:
            continue
        if off(expected[LEVELS[0]], expected["pristine"]) < 10 * _SAME:
            continue  # this batch does not distinguish them
        return {"name": name} | {h: verdict(h, base, made, batch, other, expected) for h in get_args(Hold)}
    return {"name": name, "skipped": "no batch that it takes and that distinguishes its levels"}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown: how many are right, refused, left out and why; then the same by family, with names."""
    lines = ["| views | in place | networks |", "|---|---|---:|"]
    lines += [f"| {' | '.join(kinds)} | {number} |" for kinds, number in Counter(map(_kinds, rows)).most_common()]
    found: dict[tuple[str, ...], list[str]] = {}
    for row in sorted(rows, key=itemgetter("name")):
        found.setdefault((_family(row["name"]), *_kinds(row)), []).append(row["name"].partition("/")[2])
    lines += ["", "| family | views | in place | networks |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(kinds)} | {', '.join(names)} |" for kinds, names in sorted(found.items())]
    return "\n".join(lines)


def _family(name: str) -> str:
    """Such as ``timm resnet``: the library and its module."""
    library, _, own = name.partition("/")
    import timm

    made_by = torchvision.models.get_model_builder(own) if library == "torchvision" else timm.model_entrypoint(own)
    return f"{library} {made_by.__module__.rpartition('.')[2]}"


def _kinds(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(_kind(str(row.get(hold, row.get("skipped")))) for hold in get_args(Hold))


def _kind(verdict: str) -> str:
    """A verdict without what is another network's name or size."""
    refusal, _, why = verdict.partition("; hold='views'")[0].partition(" at ")
    state = " (keeps weights or other state between calls)" if "does it keep tensors" in why else ""
    return re.sub(r"\d+ million", "too many", refusal) + state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="networks whose names hold this word")
    parser.add_argument("--most", type=float, default=100.0, help="million values; larger networks are left out")
    parser.add_argument("--part", default="1/1", help="2/3: the second of three processes that share the work")
    parser.add_argument("--output", type=Path, default=Path(".gearnn/torture.jsonl"))
    parser.add_argument("--resume", action="store_true", help="leave out networks that the output has")
    parser.add_argument("--show", action="store_true", help="run nothing, print the table of what the output has")
    asked = parser.parse_args()
    if asked.show:
        print(table([json.loads(line) for line in asked.output.read_text().splitlines()]))
        return
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in asked.output.read_text().splitlines()] if asked.resume else []
    done = {row["name"] for row in rows}
    part, parts = map(int, asked.part.split("/"))
    with asked.output.open("a" if asked.resume else "w") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, values, build in in_order(asked.only)[part - 1 :: parts]:
            if name in done:
                continue
            most = max(asked.most, OF_TORCHVISION) if name.startswith("torchvision/") else asked.most
            too_large = {"name": name, "skipped": f"{values / 1e6:.0f} million values"}
            rows.append(too_large if values > most * 1e6 else tried(name, build))
            file.write(json.dumps(rows[-1]) + "\n")
            file.flush()
            print(json.dumps(rows[-1]), flush=True)
    print(table(rows))
    verdicts = [str(row.get(hold, "skipped")).partition(":")[0] for row in rows for hold in get_args(Hold)]
    print(dict(Counter(verdicts)))
    sys.exit("WRONG" in verdicts)


if __name__ == "__main__":
    main()
