"""Mixed batches: every level's frames run through that level's own network, and come back in their order.

One forward pass for all levels, with adapted layers taken apart by level, was tried and given up: it gained
two to nine percent, and could not be made right for every network (one may sort its frames inside).
Rows are taken and joined by slices, so nothing is copied from the host, and batches can be captured and compiled.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from gearnn.errors import GearError
from gearnn.gears.nested import mapped
from gearnn.levels import DistortionLevel

Level = DistortionLevel | None
"""A level that has an adaptor; None for the base."""

NetworkAt = Callable[[Level], AbstractContextManager[nn.Module]]


class MixedBatches:
    """Runs batches of several levels.

    Args:
        network_at: lends the network of a level.

    Attributes:
        refused: why batches of this network cannot be taken apart; nothing where they can.
    """

    def __init__(self, network_at: NetworkAt) -> None:
        self._network_at = network_at
        self.refused = ""

    def network(self, levels: Sequence[Level]) -> nn.Module:
        """A network for one batch whose frame i runs at ``levels[i]``.

        Raises:
            GearError: batches of this network cannot be taken apart.
        """
        if self.refused and len(set(levels)) > 1:
            raise GearError(
                f"mixed batches: {self.refused}; run each level's frames by themselves, "
                f"or one frame at a time (batch_size=1)"
            )
        return _MixedNetwork(self._network_at, levels)


class _MixedNetwork(nn.Module):
    def __init__(self, network_at: NetworkAt, levels: Sequence[Level]) -> None:
        super().__init__()
        self._network_at, self._levels = network_at, tuple(levels)

    def forward(self, batch: Any) -> Any:
        """Outputs in the order of the frames.

        Args:
            batch: a tensor [B, ...] or a list of B frames, B the number of levels.

        Raises:
            ValueError: another number of frames.
            GearError: the network does not give one row or one answer a frame.
        """
        batch = list(batch) if isinstance(batch, tuple) else batch
        if len(batch) != len(self._levels):
            raise ValueError(f"expected a batch of {len(self._levels)} frames, as many as levels, but got {len(batch)}")
        frames: dict[Level, list[int]] = {}
        for index, level in enumerate(self._levels):
            frames.setdefault(level, []).append(index)
        outputs = []
        for level, indices in frames.items():
            with self._network_at(level) as network:
                output = network(_taken(batch, indices))
                outputs.append(mapped(torch.clone, output) if len(frames) > 1 else output)  # it may write there again
        return joined(outputs, list(frames.values())) if len(outputs) > 1 else outputs[0]


def joined(outputs: Sequence[Any], frames: Sequence[Sequence[int]]) -> Any:
    """Outputs of sub-batches as one: tensors by rows, dictionaries and tuples by entry, lists by frame.

    Args:
        outputs: of the sub-batches.
        frames: for every output, which frames its rows are; together each frame once.

    Raises:
        GearError: an output that is not one row or one answer a frame.
    """
    first = outputs[0]
    if first is None and all(output is None for output in outputs):
        return None
    if isinstance(first, Mapping):
        return {key: joined([output[key] for output in outputs], frames) for key in first}
    if isinstance(first, tuple):
        entries = [joined(entry, frames) for entry in zip(*outputs, strict=True)]
        return type(first)(*entries) if hasattr(first, "_fields") else tuple(entries)
    if not isinstance(first, Tensor | list):
        raise GearError(
            f"mixed batches: expected tensors or one answer a frame from the network, but got {type(first).__name__}"
        )
    if any((isinstance(o, Tensor) and o.ndim == 0) or len(o) != len(i) for o, i in zip(outputs, frames, strict=True)):
        raise GearError("mixed batches: expected a network that gives one row a frame")
    places = {frame: (part, row) for part, indices in enumerate(frames) for row, frame in enumerate(indices)}
    ordered = [places[frame] for frame in range(len(places))]
    if isinstance(first, list):
        return [outputs[part][row] for part, row in ordered]
    return torch.cat([outputs[part][start:stop] for part, start, stop in _runs(ordered)])


def _taken(batch: Any, indices: Sequence[int]) -> Any:
    """Some frames of a batch."""
    if not isinstance(batch, Tensor):
        return [batch[index] for index in indices]
    pieces = [batch[start:stop] for _, start, stop in _runs([(0, index) for index in indices])]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _runs(rows: Sequence[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """(part, first row, behind the last) of neighbouring rows.

    >>> _runs([(0, 4), (0, 5), (1, 0), (0, 6)])
    [(0, 4, 6), (1, 0, 1), (0, 6, 7)]
    """
    runs: list[tuple[int, int, int]] = []
    for part, row in rows:
        if runs and runs[-1][0] == part and runs[-1][2] == row:
            runs[-1] = (part, runs[-1][1], row + 1)
        else:
            runs.append((part, row, row + 1))
    return runs
