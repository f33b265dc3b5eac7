"""Adaptors for tests, of networks that were tuned by hand."""

import copy
from collections.abc import Sequence
from typing import get_args

import torch
from torch import nn

from gearnn.adaptor import Adaptor
from gearnn.gears.holding import Hold
from gearnn.layers import Layer, layers_of, named

HOLDS: tuple[Hold, ...] = get_args(Hold)
LEVELS = ("jpeg:quality=10", "jpeg:quality=30", "jpeg:quality=50")


def tune(base: nn.Module, names: list[str]) -> tuple[nn.Module, list[Layer]]:
    tuned = copy.deepcopy(base)
    layers = named(layers_of(base), names)
    with torch.no_grad():
        for layer in layers:
            for name in layer.weights:
                tuned.get_parameter(name).add_(0.5)
    return tuned, layers


def make_adaptor(base: nn.Module, level: str, names: list[str]) -> Adaptor:
    tuned, layers = tune(base, names)
    return Adaptor.extract(base, tuned, layers, level)


def adapted(base: nn.Module, names: Sequence[str], levels: Sequence[str] = LEVELS) -> list[Adaptor]:
    """Adaptors whose weights differ from level to level."""
    found = []
    for number, level in enumerate(levels):
        adaptor, state = make_adaptor(base, level, list(names)), base.state_dict()
        tensors = {name: state[name] * (1.02 + 0.02 * number) + 0.001 for name in adaptor.tensors}
        found.append(Adaptor(**{**vars(adaptor), "tensors": tensors}))
    return found
