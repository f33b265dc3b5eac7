"""Distortion sensitivity of layers (Eq. 1), and the table that carries it from step to step."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
import torch
from torch import nn

from gearnn.errors import CheckpointError
from gearnn.folding import effective
from gearnn.layers import BatchNormStatistics, Granularity, Layer, layers_of, stored_tensors, unusable
from gearnn.store.tables import read_parquet, schema_of, write_parquet

CHANGE_THRESHOLD = 2e-4
"""Above this absolute change a weight counts as changed (section 3.2.1)."""

_COLUMNS = {
    "layer": (pa.string(), "path of the module in the base"),
    "kind": (pa.string(), "class of the module"),
    "num_values": (pa.int64(), "N_i: values that an adaptor stores for the layer under the plan's BatchNorm policy"),
    "num_weights": (pa.int64(), "learnable values of the layer, biases included"),
    "sensitivity": (pa.float64(), "v_i of Eq. 1: mean absolute change of the layer's weights; under the policy folded "
                    "of a BatchNorm's effective scale and shift; unit: weight value"),
    "max_change": (pa.float64(), "largest absolute change of one weight; unit: weight value"),
    "share_changed": (pa.float64(), f"share of weights that changed by more than {CHANGE_THRESHOLD:g}; 0 to 1"),
    "sensitivity_pristine": (pa.float64(), "v_i after the same fine-tune on pristine frames; unit: weight value"),
    "sensitivity_weights": (pa.float64(), "v_i of the learnable weights alone, moved statistics left out; unit: "
                            "weight value"),
}  # fmt: skip
SCHEMA = schema_of(_COLUMNS)
"""Columns of a sensitivity table; every field's metadata describes it, units included."""


def weight_change(
    base: nn.Module,
    finetuned: nn.Module,
    *,
    pristine: nn.Module | None = None,
    granularity: Granularity = "layer",
    batchnorm_statistics: BatchNormStatistics = "folded",
) -> pd.DataFrame:
    """How much each layer changed when the base was fully fine-tuned to a distortion level.

    Eq. 1: ``v_i = 1/N_i * sum_j |p_j - f_q(p_j)|`` over the learnable weights of layer i, in float64. Under the policy
    ``folded`` those of a BatchNorm are its effective scale and shift (:func:`gearnn.folding.effective`), which is what
    an adaptor holds of it: running statistics that moved count, too.

    Args:
        base: the pre-trained DNN D.
        finetuned: D*_q, the same network after full fine-tuning.
        pristine: the same network after the same fine-tune on pristine frames, for the column
            ``sensitivity_pristine``; NaN there without it.
        granularity: what counts as one layer.
        batchnorm_statistics: policy under which ``num_values`` is counted, and BatchNorm layers are compared.

    Returns:
        One row a layer with the columns of ``SCHEMA``, in the order of the base's modules.

    Raises:
        CheckpointError: the networks do not have the same weights, or one is NaN or infinite.
    """
    layers = layers_of(base, granularity, batchnorm_statistics)
    is_folded = batchnorm_statistics == "folded"
    after, control = _Changes(base, finetuned), None if pristine is None else _Changes(base, pristine)
    rows = []
    for layer in layers:
        change = after.of(layer, is_folded)
        rows.append(
            {
                "layer": layer.name,
                "kind": layer.kind,
                "num_values": layer.num_values,
                "num_weights": layer.num_weights,
                "sensitivity": _mean(change),
                "max_change": change.max().item() if len(change) else 0.0,
                "share_changed": _mean((change > CHANGE_THRESHOLD).double()),
                "sensitivity_pristine": float("nan") if control is None else _mean(control.of(layer, is_folded)),
                "sensitivity_weights": _mean(after.of(layer, False)),
            }
        )
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def share_of_sensitive_layers(table: pd.DataFrame, size: int) -> float:
    """Share of the model in layers whose *mean* change exceeds 2e-4, which the text quotes for Fig. 5; 0 to 1.

    Args:
        table: a sensitivity table.
        size: values of the whole network.
    """
    return float(table.loc[table["sensitivity"] > CHANGE_THRESHOLD, "num_weights"].sum()) / size


def share_of_changed_weights(table: pd.DataFrame, size: int) -> float:
    """Share of the model's single weights that changed by more than 2e-4; 0 to 1; arguments as above."""
    return float((table["share_changed"] * table["num_weights"]).sum()) / size


def write_table(path: Path, table: pd.DataFrame, about: Mapping[str, str]) -> None:
    """Write a sensitivity table as Parquet.

    Args:
        path: file to write.
        table: what :func:`weight_change` gave.
        about: facts on the whole table (level, digests of both checkpoints); kept in the file's
            metadata under ``gearnn.<key>``.
    """
    write_parquet(path, table, SCHEMA, about)


def read_table(path: Path) -> tuple[pd.DataFrame, dict[str, str]]:
    """Read a sensitivity table and what it says about itself.

    Raises:
        DataError: the file is no sensitivity table.
    """
    return read_parquet(path, SCHEMA, "sensitivity table")


class _Changes:
    """|p_j - f_q(p_j)| of a base and a fine-tuned network, layer by layer."""

    def __init__(self, base: nn.Module, finetuned: nn.Module) -> None:
        self.base, self.finetuned = base, finetuned
        self.before, self.after = stored_tensors(base), stored_tensors(finetuned)

    def of(self, layer: Layer, is_folded: bool) -> torch.Tensor:
        """Of one layer as one float64 vector: of its weights, or of effective scale and shift."""
        changes = [self._of_one(name) for name in layer.weights]
        if is_folded and layer.statistics:
            for name in layer.statistics:
                self._of_one(name)
            path = layer.statistics[0].rpartition(".")[0]
            base, finetuned = self.base.get_submodule(path), self.finetuned.get_submodule(path)
            moved = effective(base, finetuned, statistics_only=not layer.folds)
            of_both = [(old - new).abs() for old, new in zip(effective(base, base), moved, strict=True)]
            changes = of_both if layer.folds else [*changes, *of_both]
        return torch.cat(changes or [torch.zeros(0, dtype=torch.float64)])

    def _of_one(self, name: str) -> torch.Tensor:
        return _change_of_one(name, self.before[name], self.after.get(name))


def _change_of_one(name: str, before: torch.Tensor, after: torch.Tensor | None) -> torch.Tensor:
    if after is None or after.shape != before.shape:
        raise CheckpointError(f"expected the fine-tuned network to have {name} {list(before.shape)}")
    for whose, tensor in (("base", before), ("fine-tuned network", after)):
        if why := unusable(name, tensor):
            raise CheckpointError(f"{whose}: expected finite values that fit float32, but {name} has {why}")
    old, new = before.detach().cpu(), after.detach().cpu()
    if old.dtype != new.dtype:  # a base of another precision was trained in float32, from its values in float32 on
        old, new = old.float(), new.float()
    return (old.double() - new.double()).abs().flatten()


def _mean(values: torch.Tensor) -> float:
    """The mean, of no values 0."""
    return values.mean().item() if len(values) else 0.0
