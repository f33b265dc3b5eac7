"""Distortion sensitivity of layers (Eq. 1), and the table that carries it from step to step."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
import torch
from torch import nn

from gearnn.errors import CheckpointError
from gearnn.layers import BatchNormStatistics, Granularity, layers_of, unusable
from gearnn.store.tables import read_parquet, schema_of, write_parquet

CHANGE_THRESHOLD = 2e-4
"""Above this absolute change a weight counts as changed (section 3.2.1)."""

_COLUMNS = {
    "layer": (pa.string(), "path of the module in the base"),
    "kind": (pa.string(), "class of the module"),
    "num_values": (pa.int64(), "N_i: values that an adaptor stores for the layer under the plan's BatchNorm policy"),
    "num_weights": (pa.int64(), "learnable values of the layer, biases included"),
    "sensitivity": (pa.float64(), "v_i of Eq. 1: mean absolute change of the layer's weights; unit: weight value"),
    "max_change": (pa.float64(), "largest absolute change of one weight; unit: weight value"),
    "share_changed": (pa.float64(), f"share of weights that changed by more than {CHANGE_THRESHOLD:g}; 0 to 1"),
    "sensitivity_pristine": (pa.float64(), "v_i after the same fine-tune on pristine frames; unit: weight value"),
}
SCHEMA = schema_of(_COLUMNS)
"""Columns of a sensitivity table; every field's metadata describes it, units included."""


def weight_change(
    base: nn.Module,
    finetuned: nn.Module,
    *,
    pristine: nn.Module | None = None,
    granularity: Granularity = "layer",
    batchnorm_statistics: BatchNormStatistics = "frozen",
) -> pd.DataFrame:
    """How much each layer changed when the base was fully fine-tuned to a distortion level.

    Eq. 1: ``v_i = 1/N_i * sum_j |p_j - f_q(p_j)|`` over the learnable weights of layer i, in float64.

    Args:
        base: the pre-trained DNN D.
        finetuned: D*_q, the same network after full fine-tuning.
        pristine: the same network after the same fine-tune on pristine frames, for the column
            ``sensitivity_pristine``; NaN there without it.
        granularity: what counts as one layer.
        batchnorm_statistics: policy under which ``num_values`` is counted.

    Returns:
        One row a layer with the columns of ``SCHEMA``, in the order of the base's modules.

    Raises:
        CheckpointError: the networks do not have the same weights, or one is NaN or infinite.
    """
    layers = layers_of(base, granularity, batchnorm_statistics)
    before, after = dict(base.named_parameters()), dict(finetuned.named_parameters())
    control = dict(pristine.named_parameters()) if pristine is not None else None
    rows = []
    for layer in layers:
        change = _absolute_change(before, after, layer.weights)
        rows.append(
            {
                "layer": layer.name,
                "kind": layer.kind,
                "num_values": layer.num_values,
                "num_weights": layer.num_weights,
                "sensitivity": _mean(change),
                "max_change": change.max().item() if len(change) else 0.0,
                "share_changed": _mean((change > CHANGE_THRESHOLD).double()),
                "sensitivity_pristine": float("nan")
                if control is None
                else _mean(_absolute_change(before, control, layer.weights)),
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


def _absolute_change(
    before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor], names: tuple[str, ...]
) -> torch.Tensor:
    """|p_j - f_q(p_j)| of the named tensors, one float64 vector."""
    return torch.cat([_change_of_one(name, before[name], after.get(name)) for name in names])


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
