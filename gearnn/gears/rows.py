"""Batches as rows: in the order of their levels, taken apart, and put together again."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gearnn.levels import DistortionLevel

Level = DistortionLevel | None
"""A level that has an adaptor; None for the base."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Rows ``start`` to ``stop`` of a sorted batch, all of one level."""

    level: Level
    start: int
    stop: int


def in_sub_batches(
    network_at: Callable[[Level], AbstractContextManager[nn.Module]], batch: Any, levels: Sequence[Level]
) -> Any:
    """Run every level's frames through its whole network; outputs come back in the order of the frames."""
    order, parts = parts_of(levels)
    batch = taken(batch, order)
    outputs = []
    for part in parts:
        with network_at(part.level) as network:
            outputs.append(network(batch[part.start : part.stop]))
    return taken(joined(outputs, [part.stop - part.start for part in parts]), inverse(order))


def parts_of(levels: Sequence[Level]) -> tuple[list[int], list[Part]]:
    """Frames in the order of their levels, and where each level's frames lie in it."""
    rows: dict[Level, list[int]] = {}
    for index, level in enumerate(levels):
        rows.setdefault(level, []).append(index)
    parts, start = [], 0
    for level, indices in rows.items():
        parts.append(Part(level=level, start=start, stop=start + len(indices)))
        start += len(indices)
    return [index for indices in rows.values() for index in indices], parts


def inverse(order: Sequence[int]) -> list[int]:
    """The order that undoes an order."""
    found = [0] * len(order)
    for place, index in enumerate(order):
        found[index] = place
    return found


def taken(values: Any, order: Sequence[int]) -> Any:
    """Rows of an output, or of a batch, in another order."""
    if list(order) == list(range(len(order))):
        return values
    if isinstance(values, Tensor):
        return values[list(order)]
    if isinstance(values, Mapping):
        return {key: taken(value, order) for key, value in values.items()}
    if isinstance(values, tuple):
        return tuple(taken(value, order) for value in values)
    return [values[index] for index in order]


def joined(outputs: Sequence[Any], rows: Sequence[int]) -> Any:
    """Outputs of sub-batches as one: tensors by rows, dictionaries and tuples by entry, lists by frame."""
    first = outputs[0]
    if isinstance(first, Tensor):
        if any(o.ndim == 0 or len(o) != n for o, n in zip(outputs, rows, strict=True)):
            raise ValueError("expected a network that gives one row a frame")
        return torch.cat(list(outputs))
    if isinstance(first, Mapping):
        return {key: joined([output[key] for output in outputs], rows) for key in first}
    if isinstance(first, tuple):
        return tuple(joined(entries, rows) for entries in zip(*outputs, strict=True))
    if isinstance(first, list) and all(len(o) == n for o, n in zip(outputs, rows, strict=True)):
        return [frame for output in outputs for frame in output]
    raise ValueError(f"expected a network that gives tensors or one answer a frame, but got {type(first).__name__}")
