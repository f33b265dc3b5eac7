"""The sensitivity table of one level (Algorithm 1, lines 3 to 5), as Parquet."""

from typing import Any

from gearnn.plan.opened import Opened
from gearnn.sensitivity import share_of_sensitive_layers, weight_change, write_table
from gearnn.store.files import content_of
from tasks.records import Base, Network, Table
from tasks.step import step


def _reads(opened: Opened, base: Base, full: Network, pristine: Network) -> dict[str, Any]:
    bound = opened.plan.bound
    return {
        "base": base.weights.sha256,
        "full": full.weights.sha256,
        "pristine": pristine.weights.sha256,
        "level": full.level,
        "granularity": bound.granularity,
        "batchnorm_statistics": bound.batchnorm_statistics,
    }


@step(version=2, reads=_reads, label="sensitivity {full.level}")
def measure_sensitivity(opened: Opened, base: Base, full: Network, pristine: Network) -> Table:
    """Eq. 1 for every layer, beside the change that the same fine-tune makes on pristine frames."""
    bound = opened.plan.bound
    table = weight_change(
        opened.network(base.weights),
        opened.network(full.weights),
        pristine=opened.network(pristine.weights),
        granularity=bound.granularity,
        batchnorm_statistics=bound.batchnorm_statistics,
    )
    about = {
        "level": full.level,
        "base_fingerprint": base.fingerprint,
        "base_sha256": base.weights.sha256,
        "finetuned_sha256": full.weights.sha256,
        "pristine_sha256": pristine.weights.sha256,
        "batchnorm_statistics": bound.batchnorm_statistics,
    }
    content = content_of(lambda path: write_table(path, table, about), ".parquet")
    return Table(
        level=full.level,
        parquet=opened.store.put(content, ".parquet"),
        share_sensitive=share_of_sensitive_layers(table, base.num_values),
    )
