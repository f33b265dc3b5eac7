"""Batches to try a network with: what its problem gives it, or what fits its first layers."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from gearnn.datasets.frames import Sample
from gearnn.gears.nested import mapped
from gearnn.machine.compute import Compute
from gearnn.machine.randomness import own_stream
from gearnn.problems.problem import Problem

_SIDES = 64, 224, 32, 28, 16, 8, 48, 96, 112, 128, 160, 192, 256, 299, 384, *range(4, 64)
"""Of the frames that are tried, in pixels: usual ones, then small ones, for networks that take a single size."""
_FEATURES = 16


@dataclass(frozen=True, kw_only=True)
class Example:
    """A batch of two frames, as the arguments that a network is called with.

    Attributes:
        arguments: by position.
        named: by name.
    """

    arguments: tuple[Any, ...]
    named: Mapping[str, Any] = field(default_factory=dict)

    def run(self, network: nn.Module) -> Any:
        """The network's output in inference mode; draws of random numbers are the same every time."""
        device = next((t.device for t in network.parameters()), torch.device("cpu"))
        arguments, named = mapped(torch.clone, (self.arguments, dict(self.named)))
        with torch.inference_mode(), own_stream(device, "example"):
            return network(*arguments, **named)

    def other(self, number: int = 1) -> "Example":
        """Another batch of the same shapes: other places, other contrast, other brightness."""

        def change(values: Tensor) -> Tensor:
            moved = values.roll(number, -1).flip(-1) if values.ndim else values
            contrast = (1.0 + 0.5 * (number - 1)) * (-1.0) ** (number + 1)
            return moved * contrast + 0.3 * (number - 1) if moved.is_floating_point() else moved

        return replace(self, arguments=mapped(change, self.arguments))

    def frames_alone(self) -> "list[Example]":
        """The first and the last frame, each alone; nothing where the arguments are no batch of several frames."""
        if not self.arguments or self.named:
            return []
        sizes = {len(a) if isinstance(a, Tensor) and a.ndim else 0 for a in self.arguments}
        if len(sizes) > 1 or max(sizes) < 2:
            return []
        rows = slice(0, 1), slice(-1, None)
        return [replace(self, arguments=tuple(a[row] for a in self.arguments)) for row in rows]


def examples(base: nn.Module, problem: Problem | None, compute: Compute) -> Iterator[Example]:
    """Batches that a network might take, the likeliest first.

    Args:
        base: the network; a problem is tried with copies of it.
        problem: what decides how frames are given to the network; None guesses from its layers.
        compute: device.
    """
    sides = list(dict.fromkeys([_SIDES[0], *_stated_sides(base), *_SIDES[1:]]))
    if problem is not None:
        for side in sides:
            yield from _as_given_by(problem, side, compute)
    parameter = next((p for p in base.parameters() if p.is_floating_point()), None)
    dtype, device = (torch.float32, compute.device) if parameter is None else (parameter.dtype, parameter.device)
    generator = torch.Generator().manual_seed(0)
    for shape in _shapes(base, sides):
        yield Example(arguments=(torch.randn(shape, generator=generator).to(device, dtype),))
    pictures = [torch.rand((3, 64, 64), generator=generator).to(device, dtype) for _ in range(2)]
    yield Example(arguments=(pictures,))
    yield Example(arguments=(torch.randint(0, 2, (2, _FEATURES), generator=generator).to(device),))


class _Noted(Exception):
    """Ends a prediction once the network was called."""


class _Notes(nn.Module):
    """Stands for a network and notes what it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Example] = []

    def forward(self, *arguments: Any, **named: Any) -> Any:
        self.calls.append(Example(arguments=arguments, named=named))
        raise _Noted


def _as_given_by(problem: Problem, side: int, compute: Compute) -> Iterator[Example]:
    """What a problem calls its network with on two frames of noise; nothing where it cannot."""
    rng, notes = np.random.default_rng(side), _Notes()
    pixels = rng.integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    samples = [Sample(image=Image.fromarray(p), target=None, name=f"noise {i}") for i, p in enumerate(pixels)]
    with suppress(Exception):  # ours, or whatever a problem dies of on noise
        problem.predict(notes, problem.to(problem.collate(samples), compute))
    yield from notes.calls[:1]


def _stated_sides(base: nn.Module) -> Iterator[int]:
    """Sides of the frames that a network says it takes, as timm's and torchvision's do."""
    for module in base.modules():
        stated = getattr(module, "default_cfg", None)
        sizes = [stated.get("input_size") if isinstance(stated, Mapping) else None]
        for size in (*sizes, getattr(module, "image_size", None), getattr(module, "img_size", None)):
            side = size[-1] if isinstance(size, list | tuple) and size else size
            if isinstance(side, int) and side > 0:
                yield side


def _shapes(base: nn.Module, sides: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Shapes that fit the first layers with weights, then those of pictures."""
    of_layers: list[tuple[int, ...]] = []
    for module in base.modules():
        if isinstance(module, nn.Conv2d):
            of_layers += [(2, module.in_channels, side, side) for side in sides]
        elif isinstance(module, nn.Conv1d):
            of_layers.append((2, module.in_channels, 64))
        elif isinstance(module, nn.Conv3d):
            of_layers += [(2, module.in_channels, 4, 32, 32), (2, module.in_channels, 32, 32)]
        elif isinstance(module, nn.Linear):
            of_layers += [(2, module.in_features), (2, _FEATURES, module.in_features)]
        elif isinstance(module, nn.RNNBase):
            of_layers.append((2, _FEATURES, module.input_size))
        if len(of_layers) >= 4:
            break
    pictures = [(2, channels, side, side) for side in sides for channels in (3, 1)]
    yield from dict.fromkeys([*of_layers, *pictures])
