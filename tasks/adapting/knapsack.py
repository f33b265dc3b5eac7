"""The layers to adapt at one level (Algorithm 1, lines 6 and 7)."""

from typing import Any

from gearnn.knapsack import select_layers
from gearnn.layers import charged_once
from gearnn.plan import Plan
from gearnn.sensitivity import read_table
from gearnn.store.storage import Store
from tasks.adapting.base import fetch_network
from tasks.records import Base, Selection, Table
from tasks.step import step


def _reads(plan: Plan, base: Base, table: Table) -> dict[str, Any]:
    return {"table": table.parquet.sha256, "bound": plan.bound.in_values(base.num_values)}


@step(version=2, reads=_reads, label="knapsack {table.level}")
def choose_layers(plan: Plan, base: Base, table: Table) -> Selection:
    """Solve Eq. 2 for one level.

    Raises:
        BoundError: no layer fits.
    """
    rows, _ = read_table(Store(plan.store).get(table.parquet))
    bound = plan.bound.in_values(base.num_values)
    reserved = charged_once(fetch_network(plan, base.weights), plan.bound.batchnorm_statistics)
    chosen = select_layers(rows["sensitivity"].tolist(), rows["num_values"].tolist(), bound - reserved)
    return Selection(
        level=table.level,
        layers=tuple(rows["layer"].iloc[chosen]),
        num_values=int(rows["num_values"].iloc[chosen].sum()) + reserved,
        bound=bound,
    )
