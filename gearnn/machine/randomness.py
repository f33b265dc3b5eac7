"""Random numbers of a network's forward pass, drawn from a stream of its own.

Dropout, stochastic depth and the samplers of detectors draw from torch's default generator, which all
threads share: two fine-tunes at a time would take numbers from each other, and no run would repeat.

Only torch's own draws are covered: a forward pass that draws from ``np.random`` or ``random`` draws from those
generators, which all threads share, so its runs do not repeat.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from threading import Lock, RLock, local
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gearnn.errors import PlanError

_GLOBAL_GENERATOR = Lock()
_TURNS: dict[str, Any] = {}
_SEEDED = local()


@contextmanager
def own_stream(device: torch.device, *key: object) -> Iterator[None]:
    """A context in which this thread's operators draw from streams that a key determines.

    On a CPU the stream is this thread's alone, and the default generator stays as it is. Another device has
    one generator for all threads: it is seeded, alone among all devices, and gets its state back at the end.
    Threads that draw on the same device therefore take turns; results repeat, whatever runs beside.

    Args:
        device: where the network runs; draws that it makes on the CPU are covered as well.
        key: what distinguishes streams, such as the seed, the epoch and the step.

    Raises:
        PlanError: numbers are drawn on the CPU in a backward pass, as activation checkpointing does.
    """
    seed = int.from_bytes(hashlib.sha256(" ".join(map(str, key)).encode()).digest()[:6], "big")
    with _OwnStream(torch.Generator().manual_seed(seed)), _seeded(device, seed):
        yield


@contextmanager
def _seeded(device: torch.device, seed: int) -> Iterator[None]:
    """The device's default generator at a seed, and afterwards as it was; nothing on a CPU."""
    if device.type in ("cpu", "meta"):
        yield
        return
    generator, turn = _generator_of(device)
    with turn:
        before = generator.get_state()
        try:
            generator.manual_seed(seed)
            yield
        finally:
            generator.set_state(before)


def _generator_of(device: torch.device) -> tuple[torch.Generator, Any]:
    """The default generator of one device, and the lock of those who draw from it."""
    module = torch.get_device_module(device)
    if device.type == "mps":
        generator = module._get_default_mps_generator()
    else:
        module.init()  # before that there are no generators
        generator = module.default_generators[module.current_device() if device.index is None else device.index]
    with _GLOBAL_GENERATOR:
        return generator, _TURNS.setdefault(str(generator.device), RLock())


class _OwnStream(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Gives operators on the CPU that draw random numbers a generator, and leaves all others alone."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.generator = generator

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if not _draws(func):  # nearly always, so this comes first and costs least
            return func(*args, **kwargs) if kwargs else func(*args)
        options = dict(kwargs or {})
        if options.get("generator") is not None or getattr(_SEEDED, "here", False) or not _runs_on_cpu(args, options):
            return func(*args, **options)
        if torch._C._current_graph_task_id() != -1:  # inside of a backward pass
            raise PlanError(
                "the network draws random numbers again while gradients are computed (activation checkpointing), "
                "and would draw others; switch its checkpointing off, or its dropout"
            )
        drawing = _drawing(func)
        if drawing is not None:
            return drawing(*args, **options, generator=self.generator)
        return self._draw_globally(func, args, options)

    def _draw_globally(self, func: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """For operators that take no generator: seed the global one from this stream, and put it back."""
        seed = int(torch.randint(2**62, (), generator=self.generator))
        with _GLOBAL_GENERATOR:
            before = torch.get_rng_state()
            _SEEDED.here = True  # a stream around this one must not seed it again
            try:
                torch.default_generator.manual_seed(seed)
                return func(*args, **options)
            finally:
                _SEEDED.here = False
                torch.set_rng_state(before)


@cache
def _draws(func: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in func.tags


@cache
def _drawing(func: Any) -> Any:
    """The variant of an operator that takes a generator; None where it has none."""
    if any(argument.name == "generator" for argument in func._schema.arguments):
        return func
    name = "generator" if func._overloadname == "default" else f"{func._overloadname}_generator"
    variant = getattr(func.overloadpacket, name, None)
    same = variant is not None and [a.name for a in variant._schema.arguments if a.name != "generator"] == [
        a.name for a in func._schema.arguments
    ]
    return variant if same else None


def _runs_on_cpu(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    device = kwargs.get("device")
    if device is not None:
        return torch.device(device).type == "cpu"
    return all(a.device.type == "cpu" for a in args if isinstance(a, torch.Tensor))
