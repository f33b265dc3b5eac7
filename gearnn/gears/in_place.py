"""In place: one network whose tensors keep their addresses, for compiled, captured and exported programs.

All tensors that any level adapts lie in one contiguous piece of memory, the network's slab. Every
adaptor is a slab of its own, in the same order. Shifting copies the adaptor's slab over the network's,
and the base's values over what this level does not adapt: a few long copies, whatever the number of
levels. Tensors that most levels adapt lie first, so that a level's runs are long.

The adapted tensors of the network do not require gradients: autocast keeps the cast of a weight that does,
and would run the next level with it.
"""

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gearnn.adaptor import Adaptor
from gearnn.errors import GearError
from gearnn.gears.mixed import MixedBatches
from gearnn.layers import aliases, stored_tensors
from gearnn.levels import DistortionLevel
from gearnn.machine.sharing import sharing_copy, under_first_names

_ALIGNMENT = 64  # bytes; what vector instructions and oneDNN like


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a tensor lies in the network's slab, in values."""

    start: int
    length: int  # padded to the alignment
    tensor: Tensor  # of the base

    def in_slab(self, slab: Tensor, start: int) -> Tensor:
        """A dense tensor of the base's shape and memory order at a place of a slab."""
        dense = torch.empty_like(self.tensor, device="meta", requires_grad=False)  # the base's may overlap or have gaps
        return slab.as_strided(dense.shape, dense.stride(), slab.storage_offset() + start)


class _Hung(NamedTuple):
    """A module on the way to a piece of the slab, or such a piece itself, where it hangs in the network."""

    owner: Any  # a mapping by name of the modules, parameters or buffers of the module around it
    attribute: str
    value: Any
    address: int  # of a tensor; 0 of a module
    name: str


class InPlace:
    """One network for all levels; it is at one level at a time. On a GPU it belongs to one stream.

    Args:
        base: stays as it is; the network shares its tensors but for those that a level adapts.
        adaptors: level -> adaptor, checked to be of this base.
    """

    def __init__(self, base: nn.Module, adaptors: Mapping[DistortionLevel, Adaptor]) -> None:
        self._lock = threading.RLock()
        self._of_base: list[Tensor] = []  # the base's values of what any level adapts, in the order of the slab
        self._slabs: dict[DistortionLevel, list[Tensor]] = {level: [] for level in adaptors}
        self._copies: dict[DistortionLevel | None, tuple[list[Tensor], list[Tensor]]]
        self._copies = {level: ([], []) for level in (None, *adaptors)}
        values = {level: under_first_names(adaptor.tensors, base) for level, adaptor in adaptors.items()}
        if any(isinstance(module, torch.jit.ScriptModule) for module in base.modules()):
            raise GearError("gears in place: expected a network of Python modules, but it has scripted ones")
        state = stored_tensors(base)
        pieces: dict[str, Tensor] = {}
        with torch.inference_mode(False), torch.no_grad():
            for names in _together(state, values):
                pieces |= self._lay_out({name: state[name] for name in names}, values)
        self.network = sharing_copy(base, pieces)
        self._hung = list(_hung(self.network, pieces))
        self._level: DistortionLevel | None = None
        self._lent: list[DistortionLevel | None] = []  # levels of the contexts that are open, the innermost last
        self._is_whole = True
        self._mixed = MixedBatches(self.at)

    @property
    def level(self) -> DistortionLevel | None:
        """The level that the network is at; None for the base's values."""
        return self._level

    def shift(self, level: DistortionLevel | None) -> None:
        """Bring the network to a level: all of its tensors, or none.

        Raises:
            GearError: a copy failed, and the network is at the level that it was at before; or the network
                was moved or converted, so that copies would not reach it.
        """
        with self._lock:
            self._check_that_copies_reach()
            if level == self._level and self._is_whole:
                return
            try:
                self._copy(level)
            except BaseException as error:
                self._is_whole = False
                self._copy(self._level)
                self._is_whole = True
                if not isinstance(error, Exception):
                    raise
                raise GearError(f"shifting to {level or 'pristine'} failed, still at {self._level or 'pristine'}: "
                                f"{' '.join(str(error).split())}") from error  # fmt: skip
            self._level, self._is_whole = level, True

    @contextmanager
    def at(self, level: DistortionLevel | None) -> Iterator[nn.Module]:
        with self._lock:
            self.shift(level)
            self._lent.append(level)
            try:
                yield self.network
            finally:
                self._lent.pop()
                if self._lent:  # the context around this one lends the network at its own level
                    self.shift(self._lent[-1])

    def mixed(self, levels: Sequence[DistortionLevel | None]) -> nn.Module:
        return self._mixed.network(levels)

    def refuse_mixed(self, reason: str) -> None:
        self._mixed.refused = reason

    def networks(self) -> Sequence[nn.Module]:
        return [self.network]

    def shared_tensors(self) -> Sequence[Tensor]:
        return self._of_base

    def own_tensors(self, level: DistortionLevel) -> Sequence[Tensor]:
        return self._slabs[level]

    def _check_that_copies_reach(self) -> None:
        for owner, attribute, value, address, name in self._hung:  # a plain loop, because every shift runs it
            if owner.get(attribute) is not value or (address and (value.data_ptr() != address or value.requires_grad)):
                raise GearError(
                    f"{name} of the network of gears in place was moved, converted or replaced, so that "
                    f"shifts would not reach it, or requires gradients, so that autocast would keep a level's casts; "
                    f"build the gearbox of a base that is where it shall run"
                )

    @torch.no_grad()
    def _copy(self, level: DistortionLevel | None) -> None:
        targets, sources = self._copies[level]
        if targets:
            torch._foreach_copy_(targets, sources)

    def _lay_out(
        self, tensors: Mapping[str, Tensor], values: Mapping[DistortionLevel, Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """A slab for tensors of one dtype on one device, and every level's copies; the slab's pieces by name."""
        places = _placed(tensors)
        first = next(iter(tensors.values()))
        size = sum(place.length for place in places.values())
        of_base = torch.zeros(size, dtype=first.dtype, device=first.device)
        for place in places.values():
            place.in_slab(of_base, place.start).copy_(place.tensor)
        self._of_base.append(of_base)
        own = of_base.clone()
        _append(self._copies[None], own, of_base)
        for level, adapted in values.items():
            length = sum(place.length for name, place in places.items() if name in adapted)
            slab = torch.zeros(length, dtype=first.dtype, device=first.device)
            self._slabs[level].append(slab)
            for target, source in _copied_pieces(places, adapted, own, of_base, slab):
                _append(self._copies[level], target, source)
        return {name: _piece(place, own) for name, place in places.items()}


def _placed(tensors: Mapping[str, Tensor]) -> dict[str, _Place]:
    places: dict[str, _Place] = {}
    start = 0
    for name, tensor in tensors.items():
        length = -(-tensor.numel() * tensor.element_size() // _ALIGNMENT) * _ALIGNMENT // tensor.element_size()
        places[name] = _Place(start=start, length=length, tensor=tensor)
        start += length
    return places


def _copied_pieces(
    places: Mapping[str, _Place], adapted: Mapping[str, Tensor], own: Tensor, of_base: Tensor, slab: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Fill an adaptor's slab; (target, source) of the copies that bring the network to its level."""
    start = 0
    for is_adapted, first, length in _runs(places, adapted):
        source = slab[start : start + length] if is_adapted else of_base[first : first + length]
        yield own[first : first + length], source
        start += length if is_adapted else 0
    start = 0
    for name, place in places.items():
        if name in adapted:
            place.in_slab(slab, start).copy_(adapted[name])
            start += place.length


def _append(copies: tuple[list[Tensor], list[Tensor]], target: Tensor, source: Tensor) -> None:
    copies[0].append(target)
    copies[1].append(source)


def _piece(place: _Place, slab: Tensor) -> Tensor:
    piece = place.in_slab(slab, place.start)
    return nn.Parameter(piece, requires_grad=False) if isinstance(place.tensor, nn.Parameter) else piece


def _hung(network: nn.Module, pieces: Mapping[str, Tensor]) -> Iterator[_Hung]:
    """Every place of the network where a piece of the slab hangs, tied names included, and the modules on the way."""
    tied = aliases(network)
    known: set[str] = set()
    for first, piece in pieces.items():
        for name in tied.get(first, [first]):
            module, way = network, ""
            *path, attribute = name.split(".")
            for part in path:
                way = f"{way}.{part}" if way else part
                inner = module.get_submodule(part)
                if way not in known:
                    yield _Hung(name=way, owner=module._modules, attribute=part, value=inner, address=0)
                known.add(way)
                module = inner
            owner: Any = module._parameters if attribute in module._parameters else module._buffers
            yield _Hung(name=name, owner=owner, attribute=attribute, value=piece, address=piece.data_ptr())


def _together(state: Mapping[str, Tensor], values: Mapping[DistortionLevel, Mapping[str, Tensor]]) -> list[list[str]]:
    """Names of all adapted tensors by dtype and device, those that most levels adapt first."""
    counts = Counter(name for adapted in values.values() for name in adapted)
    found: dict[tuple[torch.dtype, torch.device], list[str]] = {}
    for name in sorted((name for name in state if name in counts), key=lambda name: -counts[name]):
        found.setdefault((state[name].dtype, state[name].device), []).append(name)
    return list(found.values())


def _runs(places: Mapping[str, _Place], adapted: Mapping[str, Tensor]) -> Iterator[tuple[bool, int, int]]:
    """(adapted or not, start, length) of neighbouring tensors, in the order of the slab."""
    run: tuple[bool, int, int] | None = None
    for name, place in places.items():
        is_adapted = name in adapted
        if run is not None and run[0] == is_adapted:
            run = (is_adapted, run[1], run[2] + place.length)
            continue
        if run is not None:
            yield run
        run = (is_adapted, place.start, place.length)
    if run is not None:
        yield run
