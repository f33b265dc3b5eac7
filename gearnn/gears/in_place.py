"""In place: one network whose tensors keep their addresses, for compiled, captured and exported programs.

All tensors that any level adapts lie in one contiguous piece of memory, the network's slab. Every
adaptor is a slab of its own, in the same order. Shifting copies the adaptor's slab over the network's,
and the base's values over what this level does not adapt: a few long copies, whatever the number of
levels. Tensors that most levels adapt lie first, so that a level's runs are long.
"""

import copy
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gearnn.adaptor import Adaptor
from gearnn.errors import GearError
from gearnn.gears.mixed import MixedNetwork
from gearnn.gears.rows import in_sub_batches
from gearnn.layers import aliases, replace_tensor, stored_tensors
from gearnn.levels import DistortionLevel

_ALIGNMENT = 64  # bytes; what vector instructions and oneDNN like


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a tensor lies in the network's slab, in values."""

    start: int
    length: int  # padded to the alignment
    tensor: Tensor  # of the base

    def in_slab(self, slab: Tensor, start: int) -> Tensor:
        """A tensor of the base's shape and memory order at a place of a slab."""
        return slab.as_strided(self.tensor.shape, self.tensor.stride(), slab.storage_offset() + start)


class InPlace:
    """One network for all levels; it is at one level at a time.

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
        state, tied = stored_tensors(base), aliases(base)
        self.network = copy.deepcopy(base, memo={id(tensor): tensor for tensor in state.values()})
        for dtype, names in _by_dtype(state, tied, adaptors).items():
            self._lay_out(dtype, {name: state[name] for name in names}, tied, adaptors)
        self._level: DistortionLevel | None = None
        self._is_whole = True

    @property
    def level(self) -> DistortionLevel | None:
        """The level that the network is at; None for the base's values."""
        return self._level

    def shift(self, level: DistortionLevel | None) -> None:
        """Bring the network to a level: all of its tensors, or none.

        Raises:
            GearError: a copy failed; the network is at the level that it was at before.
        """
        with self._lock:
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
            yield self.network

    def mixed(self, levels: Sequence[DistortionLevel | None]) -> nn.Module:
        return MixedNetwork(lambda batch, levels: in_sub_batches(self.at, batch, levels), levels)

    def networks(self) -> Sequence[nn.Module]:
        return [self.network]

    def shared_tensors(self) -> Sequence[Tensor]:
        return self._of_base

    def own_tensors(self, level: DistortionLevel) -> Sequence[Tensor]:
        return self._slabs[level]

    @torch.no_grad()
    def _copy(self, level: DistortionLevel | None) -> None:
        targets, sources = self._copies[level]
        if targets:
            torch._foreach_copy_(targets, sources)

    @torch.no_grad()
    def _lay_out(
        self,
        dtype: torch.dtype,
        tensors: Mapping[str, Tensor],
        tied: Mapping[str, Sequence[str]],
        adaptors: Mapping[DistortionLevel, Adaptor],
    ) -> None:
        """Move tensors of one dtype into the network's slab, and plan every level's copies."""
        places: dict[str, _Place] = {}
        size = 0
        for name, tensor in tensors.items():
            length = -(-tensor.numel() * tensor.element_size() // _ALIGNMENT) * _ALIGNMENT // tensor.element_size()
            places[name] = _Place(start=size, length=length, tensor=tensor)
            size += length
        device = next(iter(tensors.values())).device
        of_base = torch.zeros(size, dtype=dtype, device=device)
        for place in places.values():
            place.in_slab(of_base, place.start).copy_(place.tensor)
        self._of_base.append(of_base)
        own = of_base.clone()
        for name, place in places.items():
            _hang(self.network, tied.get(name, [name]), place, own)
        _append(self._copies[None], own, of_base)
        for level, adaptor in adaptors.items():
            adapted = _canonical(adaptor, tied)
            slab = torch.zeros(sum(p.length for n, p in places.items() if n in adapted), dtype=dtype, device=device)
            self._slabs[level].append(slab)
            start = 0
            for is_adapted, first, length in _runs(places, adapted.keys()):
                source = slab[start : start + length] if is_adapted else of_base[first : first + length]
                _append(self._copies[level], own[first : first + length], source)
                start += length if is_adapted else 0
            start = 0
            for name, place in places.items():
                if name in adapted:
                    place.in_slab(slab, start).copy_(adapted[name])
                    start += place.length


def _append(copies: tuple[list[Tensor], list[Tensor]], target: Tensor, source: Tensor) -> None:
    copies[0].append(target)
    copies[1].append(source)


def _hang(network: nn.Module, names: Sequence[str], place: _Place, slab: Tensor) -> None:
    """Let a network's tensor, under all of its names, be the piece of a slab."""
    fresh = place.in_slab(slab, place.start)
    if isinstance(place.tensor, nn.Parameter):
        fresh = nn.Parameter(fresh, requires_grad=place.tensor.requires_grad)
    for name in names:
        replace_tensor(network, name, fresh)


def _canonical(adaptor: Adaptor, tied: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
    """An adaptor's tensors, tied ones under the first of their names."""
    return {tied.get(name, [name])[0]: tensor for name, tensor in adaptor.tensors.items()}


def _by_dtype(
    state: Mapping[str, Tensor], tied: Mapping[str, Sequence[str]], adaptors: Mapping[DistortionLevel, Adaptor]
) -> dict[torch.dtype, list[str]]:
    """Names of all adapted tensors, those that most levels adapt first."""
    counts = Counter(name for adaptor in adaptors.values() for name in _canonical(adaptor, tied))
    found: dict[torch.dtype, list[str]] = {}
    for name in sorted((name for name in state if name in counts), key=lambda name: -counts[name]):
        found.setdefault(state[name].dtype, []).append(name)
    return found


def _runs(places: Mapping[str, _Place], adapted: object) -> Iterator[tuple[bool, int, int]]:
    """(adapted or not, start, length) of neighbouring tensors, in the order of the slab."""
    run: tuple[bool, int, int] | None = None
    for name, place in places.items():
        is_adapted = name in adapted  # type: ignore[operator]
        if run is not None and run[0] == is_adapted:
            run = (is_adapted, run[1], run[2] + place.length)
            continue
        if run is not None:
            yield run
        run = (is_adapted, place.start, place.length)
    if run is not None:
        yield run
