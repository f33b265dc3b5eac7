"""Mixed batches: one forward pass for frames of different levels.

Frames are put in the order of their levels. Layers that no level adapts, which hold nearly all of the
work, see the whole batch at once. An adapted layer runs every level's frames with that level's own
module; BatchNorm layers run all at once where memory order allows, with a scale and shift for every
frame. So each frame gets what its own network would give. Where that cannot be done (a layer that is not
called frame by frame, a network that takes no tensor), or takes longer here, every level's frames run
through the whole network: the faster way is found by running both.
"""

import copy
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gearnn.gears.rows import Level, Part, in_sub_batches, inverse, joined, parts_of, taken
from gearnn.levels import DistortionLevel

_TURNS = 3
"""Timed calls of each way before one is chosen, after a first call that runs both and compares them."""
_MOST_CHOICES = 256
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
"""Largest relative difference between both ways; coarser types 0.05. A wrong way is off by far more."""


class MixedNetwork(nn.Module):
    """A network for one batch: as a level's network, but frame i runs at ``levels[i]``."""

    def __init__(self, run: Callable[[Any, Sequence[Level]], Any], levels: Sequence[Level]) -> None:
        super().__init__()
        self._run, self._levels = run, tuple(levels)

    def forward(self, batch: Any) -> Any:
        """Outputs in the order of the frames.

        Args:
            batch: a tensor [B, ...] or a list of B frames, B the number of levels.
        """
        batch = list(batch) if isinstance(batch, tuple) else batch
        if len(batch) != len(self._levels):
            raise ValueError(f"expected a batch of {len(self._levels)} frames, as many as levels, but got {len(batch)}")
        return self._run(batch, self._levels)


@dataclass(kw_only=True)
class _Choice:
    """What is known of both ways for batches of one shape: seconds of one forward and of sub-batches, and for which
    levels both gave the same; what a frame gets depends on its own level, so that pairs of levels need not be tried.
    """

    seconds: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    chosen: int | None = None
    compared: set[Level] = field(default_factory=set)

    def turn(self) -> int:
        """Which way to take now: the chosen one, else the one that was timed less."""
        return self.chosen if self.chosen is not None else int(len(self.seconds[0]) > len(self.seconds[1]))

    def timed(self, way: int, seconds: float) -> None:
        self.seconds[way].append(seconds)
        if self.chosen is None and min(map(len, self.seconds)) >= _TURNS:
            self.chosen = int(min(self.seconds[1]) < min(self.seconds[0]))


class MixedRunner:
    """Runs mixed batches of one gearbox; threads may do so at once."""

    def __init__(self, base: nn.Module, networks: Mapping[DistortionLevel, nn.Module]) -> None:
        self._base, self._networks = base, networks
        self._now = _Now()
        self._lock = threading.Lock()
        self._tree: nn.Module | None = None
        self._choices: dict[Any, _Choice] = {}
        self.refused = ""  # why one forward pass cannot be done with this network

    def run(self, batch: Any, levels: Sequence[Level]) -> Any:
        """Outputs of a batch in the order of its frames; see :class:`MixedNetwork`."""
        if not isinstance(batch, Tensor) or self.refused:
            return in_sub_batches(self._at, batch, levels)
        choice = self._choice(batch, levels)
        if not choice.compared.issuperset(levels):
            return self._compare(batch, levels, choice)
        way = choice.turn()
        if choice.chosen is not None:
            return self.one_forward(batch, levels) if way == 0 else in_sub_batches(self._at, batch, levels)
        _finish(batch)
        started = time.perf_counter()
        output = self.one_forward(batch, levels) if way == 0 else in_sub_batches(self._at, batch, levels)
        _finish(batch)
        choice.timed(way, time.perf_counter() - started)
        return output

    def one_forward(self, batch: Tensor, levels: Sequence[Level]) -> Any:
        """All frames in one forward pass."""
        if self._tree is None:
            with self._lock:
                self._tree = self._tree or _tree(self._base, self._networks, self._now)
        order, parts = parts_of(levels)
        with self._now.running(parts, len(levels)):
            output = self._tree(taken(batch, order))
        return taken(output, inverse(order))

    def _at(self, level: Level) -> AbstractContextManager[nn.Module]:
        return nullcontext(self._base if level is None else self._networks[level])

    def _choice(self, batch: Tensor, levels: Sequence[Level]) -> _Choice:
        """What is known of batches like this one."""
        autocast = torch.is_autocast_enabled(batch.device.type)
        key = (tuple(batch.shape), batch.dtype, autocast, len(set(levels)), batch.is_contiguous())
        with self._lock:
            if key not in self._choices and len(self._choices) >= _MOST_CHOICES:
                self._choices.clear()
            return self._choices.setdefault(key, _Choice())

    def _compare(self, batch: Tensor, levels: Sequence[Level], choice: _Choice) -> Any:
        """Run both ways, once for every level; where the first fails or differs, it is not taken again."""
        expected = in_sub_batches(self._at, batch, levels)
        try:
            found = self.one_forward(batch, levels)
            reason = _difference(found, expected)
        except Exception as error:  # whatever a network says when its layers are not called as expected
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if reason:
            self.refused = reason
            logging.getLogger("gearnn").info("mixed batches run in sub-batches, because: %s", reason)
        else:
            choice.compared |= set(levels)
        return expected


class _Now(threading.local):
    """The batch that a thread is running."""

    parts: Sequence[Part] = ()
    size = 0

    @contextmanager
    def running(self, parts: Sequence[Part], size: int) -> Iterator[None]:
        self.parts, self.size = parts, size
        try:
            yield
        finally:
            self.parts, self.size = (), 0


class _PerLevel(nn.Module):
    """An adapted layer: every level's frames run with that level's own module."""

    def __init__(self, base: nn.Module, modules: Mapping[DistortionLevel, nn.Module], now: _Now) -> None:
        super().__init__()
        self._of_level: dict[Level, nn.Module] = {None: base}  # a plain dictionary: they are not its own
        for level, module in modules.items():
            self._of_level[level] = module
        self._now = now

    def forward(self, x: Tensor) -> Any:
        now = self._now
        if not isinstance(x, Tensor) or x.ndim == 0 or x.shape[0] != now.size:
            raise ValueError("expected an adapted layer to be called with a tensor of one row a frame")
        outputs = [self._of_level[part.level](x[part.start : part.stop]) for part in now.parts]
        return joined(outputs, [part.stop - part.start for part in now.parts])


class _BatchNormPerLevel(_PerLevel):
    """A BatchNorm in evaluation mode: B frames of C channels as one of B x C channels, each with its own scale."""

    def forward(self, x: Tensor) -> Any:
        now = self._now
        if x.ndim != 4 or x.shape[0] != now.size or not x.is_contiguous():
            return super().forward(x)
        batch, channels, height, width = x.shape
        layers: list[Any] = [self._of_level[part.level] for part in now.parts]
        rows = [part.stop - part.start for part in now.parts]
        weight, bias, mean, variance = (
            torch.cat([getattr(layer, name).expand(n, -1) for layer, n in zip(layers, rows, strict=True)]).flatten()
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        widened = x.view(1, batch * channels, height, width)
        normalised = F.batch_norm(widened, mean, variance, weight, bias, training=False, eps=layers[0].eps)
        return normalised.view(batch, channels, height, width)


def _tree(base: nn.Module, networks: Mapping[DistortionLevel, nn.Module], now: _Now) -> nn.Module:
    """The base's modules with the adapted ones replaced; tensors are shared, not copied."""
    shared = {id(t): t for t in (*base.parameters(), *base.buffers())}
    tree = copy.deepcopy(base, memo=shared)
    replaced: list[str] = []
    made: dict[int, nn.Module] = {}  # a module that stands in several places is replaced in all of them
    for path, module in base.named_modules(remove_duplicate=False):
        inside = any(path.startswith(f"{outer}.") for outer in replaced)
        others = {level: network.get_submodule(path) for level, network in networks.items()}
        if inside or not any(_differ(module, other) for other in others.values()):
            continue
        kind = _BatchNormPerLevel if _is_plain_batchnorm(module) else _PerLevel
        fresh = made.setdefault(id(module), kind(module, others, now))
        if not path:
            return fresh
        owner, _, name = path.rpartition(".")
        setattr(tree.get_submodule(owner), name, fresh)
        replaced.append(path)
    return tree


def _differ(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules own different tensors, those of their children aside."""
    own = [*one.named_parameters(recurse=False), *one.named_buffers(recurse=False)]
    others = {**dict(other.named_parameters(recurse=False)), **dict(other.named_buffers(recurse=False))}
    return any(tensor is not others[name] for name, tensor in own)


def _is_plain_batchnorm(module: nn.Module) -> bool:
    return (
        type(module) is nn.BatchNorm2d
        and not module.training
        and module.affine
        and module.running_mean is not None
        and module.running_var is not None
    )


def _difference(found: Any, expected: Any) -> str:
    """Why two outputs are not the same but for rounding; nothing where they are."""
    if isinstance(expected, Mapping):
        return next(filter(None, (_difference(found[key], value) for key, value in expected.items())), "")
    if isinstance(expected, tuple | list):
        return next(filter(None, (_difference(f, e) for f, e in zip(found, expected, strict=True))), "")
    if not isinstance(expected, Tensor) or not expected.is_floating_point():
        return ""
    scale = float(expected.float().abs().max()) or 1.0
    off = float((found.float() - expected.float()).abs().max()) / scale
    limit = 0.05 if torch.is_autocast_enabled(expected.device.type) else _TOLERANCE.get(expected.dtype, 0.05)
    return (
        ""
        if off <= limit
        else f"one forward pass differs from the levels' own networks by {off:.2g} of the largest value"
    )


def _finish(batch: Tensor) -> None:
    if batch.device.type == "cuda":
        torch.cuda.synchronize(batch.device)
