"""Tensors inside of what networks are given and give: tuples, lists, dictionaries, records."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

_DEEPEST = 20


def leaves(output: Any, around: tuple[int, ...] = ()) -> list[Any]:
    """Tensors and other values inside of an output, however deep but for circles; ``around``: what it lies in."""
    if isinstance(output, Tensor):
        return [output]
    if id(output) in around or len(around) > _DEEPEST:
        return []
    if isinstance(output, Mapping):
        values = list(output.values())
    elif isinstance(output, list | tuple):
        values = list(output)
    elif hasattr(output, "__dict__"):
        values = list(vars(output).values())
    else:
        return [output]
    return [leaf for value in values for leaf in leaves(value, (*around, id(output)))]


def mapped(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The same tuples, lists and dictionaries with changed tensors; anything else as it is."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: mapped(change, entry) for key, entry in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(change, entry) for entry in value))
    if isinstance(value, list | tuple):
        return type(value)(mapped(change, entry) for entry in value)
    return value
