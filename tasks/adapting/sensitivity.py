"""The sensitivity table of one level (Algorithm 1, lines 3 to 5), as Parquet."""

from typing import Any

from gearnn.plan import Plan
from gearnn.sensitivity import share_of_sensitive_layers, weight_change, write_table
from gearnn.store.storage import Store
from tasks.adapting.base import fetch_network
from tasks.records import Base, Network, Table
from tasks.step import step, written


def _reads(plan: Plan, base: Base, full: Network, pristine: Network) -> dict[str, Any]:
    return {
        "base": base.weights.sha256,
        "full": full.weights.sha256,
        "pristine": pristine.weights.sha256,
        "level": full.level,
        "granularity": plan.bound.granularity,
        "batchnorm_statistics": plan.bound.batchnorm_statistics,
    }


@step(version=1, reads=_reads, label="sensitivity {full.level}")
def measure_sensitivity(plan: Plan, base: Base, full: Network, pristine: Network) -> Table:
    """Eq. 1 for every layer, beside the change that the same fine-tune makes on pristine frames."""
    table = weight_change(
        fetch_network(plan, base.weights),
        fetch_network(plan, full.weights),
        pristine=fetch_network(plan, pristine.weights),
        granularity=plan.bound.granularity,
        batchnorm_statistics=plan.bound.batchnorm_statistics,
    )
    about = {
        "level": full.level,
        "base_fingerprint": base.fingerprint,
        "base_sha256": base.weights.sha256,
        "finetuned_sha256": full.weights.sha256,
        "pristine_sha256": pristine.weights.sha256,
        "batchnorm_statistics": plan.bound.batchnorm_statistics,
    }
    content = written(lambda path: write_table(path, table, about), ".parquet")
    return Table(
        level=full.level,
        parquet=Store(plan.store).put(content, ".parquet"),
        share_sensitive=share_of_sensitive_layers(table, base.num_values),
    )
