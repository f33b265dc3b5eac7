"""The layers to adapt at one level (Algorithm 1, lines 6 and 7)."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from gearnn.layers import BatchNormStatistics, Layer, charged_once, layers_of, room_for_layers
from gearnn.plan.opened import Opened
from gearnn.portfolio import most_sensitive
from gearnn.sensitivity import read_table
from tasks.records import Base, Selection, Table
from tasks.step import step


def _reads(opened: Opened, base: Base, table: Table) -> dict[str, Any]:
    return {"table": table.parquet.sha256, "bound": opened.plan.bound.in_values(base.num_values)}


@step(version=2, reads=_reads, label="knapsack {table.level}")
def choose_layers(opened: Opened, base: Base, table: Table) -> Selection:
    """Solve Eq. 2 for one level.

    Raises:
        BoundError: no layer fits.
    """
    spec, network = opened.plan.bound, opened.network(base.weights)
    rows, _ = read_table(opened.store.get(table.parquet))
    bound, policy = spec.in_values(base.num_values), spec.batchnorm_statistics
    layers = layers_of(network, spec.granularity, policy)
    chosen = most_sensitive(layers, rows, room_for_layers(network, bound, policy))
    return selection_of(table.level, chosen, network, policy, bound)


def selection_of(
    level: str, layers: Sequence[Layer], network: nn.Module, policy: BatchNormStatistics, bound: int | None = None
) -> Selection:
    """Layers that were chosen at a level, with what their adaptor stores; without a bound that is the bound."""
    size = sum(layer.num_values for layer in layers) + charged_once(network, policy)
    names = tuple(layer.name for layer in layers)
    return Selection(level=level, layers=names, num_values=size, bound=size if bound is None else bound)
