import copy
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from gearnn.errors import CheckpointError, DataError
from gearnn.sensitivity import SCHEMA, read_table, share_of_sensitive_layers, weight_change, write_table


@pytest.fixture
def tuned(tiny: nn.Module) -> nn.Module:
    other = copy.deepcopy(tiny)
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 3e-4 * torch.randn_like(parameter)
    return other


def test_sensitivity_is_equation_1_written_as_a_loop(tiny: nn.Module, tuned: nn.Module) -> None:
    table = weight_change(tiny, tuned).set_index("layer")
    for name in ("conv", "bn", "head"):
        before = [p for t in tiny.get_submodule(name).parameters() for p in t.flatten().tolist()]
        after = [p for t in tuned.get_submodule(name).parameters() for p in t.flatten().tolist()]
        changes = [abs(p - f) for p, f in zip(before, after, strict=True)]
        assert table.loc[name, "num_weights"] == len(changes)
        assert table.loc[name, "sensitivity"] == pytest.approx(sum(changes) / len(changes), rel=1e-12)
        assert table.loc[name, "max_change"] == max(changes)
        assert table.loc[name, "share_changed"] == pytest.approx(sum(c > 2e-4 for c in changes) / len(changes))


def test_the_pristine_control_stands_beside(tiny: nn.Module, tuned: nn.Module) -> None:
    table = weight_change(tiny, tuned, pristine=tuned)
    assert (table["sensitivity_pristine"] == table["sensitivity"]).all()
    assert weight_change(tiny, tuned)["sensitivity_pristine"].isna().all()


def test_the_share_counts_whole_layers_by_their_mean(tiny: nn.Module) -> None:
    table = pd.DataFrame({"sensitivity": [3e-4, 1e-4], "num_weights": [30, 50]})
    assert share_of_sensitive_layers(table, 100) == 0.3


def test_another_network_is_named(tiny: nn.Module) -> None:
    with pytest.raises(CheckpointError, match=r"expected the fine-tuned network to have conv\.weight \[4, 3, 3, 3\]"):
        weight_change(tiny, nn.Conv2d(3, 4, 1))


def test_a_table_comes_back_from_parquet_with_units_and_digests(
    tiny: nn.Module, tuned: nn.Module, tmp_path: Path
) -> None:
    table = weight_change(tiny, tuned)
    write_table(tmp_path / "t.parquet", table, {"base_sha256": "ab", "level": "jpeg:quality=10"})
    again, about = read_table(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(again, table, check_dtype=False)
    assert about == {"base_sha256": "ab", "level": "jpeg:quality=10"}
    stored = pq.read_schema(tmp_path / "t.parquet")
    assert stored.names == SCHEMA.names
    assert b"unit: weight value" in stored.field("sensitivity").metadata[b"description"]


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"no parquet")
    with pytest.raises(DataError, match="expected a Parquet file"):
        read_table(tmp_path / "a")
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "b")
    with pytest.raises(DataError, match="are missing"):
        read_table(tmp_path / "b")
