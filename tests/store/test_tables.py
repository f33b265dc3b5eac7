from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gearnn.errors import DataError
from gearnn.store.tables import read_parquet, schema_of, write_parquet

SCHEMA = schema_of(
    {"name": (pa.string(), "a name"), "size": (pa.int64(), "values"), "score": (pa.float64(), "percent")}
)
ABOUT = {"level": "jpeg:quality=10"}


def table() -> pd.DataFrame:
    return pd.DataFrame({"name": ["a", "b", "c"], "size": [1, 2, 3], "score": [0.5, float("nan"), 2.0]})


def test_no_flipped_bit_of_a_table_goes_unnoticed(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_parquet(path, table(), SCHEMA, ABOUT)
    good, reasons = path.read_bytes(), []
    for place in range(len(good)):
        damaged = bytearray(good)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            read, about = read_parquet(path, SCHEMA, "table")
        except DataError as error:
            reasons.append(str(error))
        else:
            pd.testing.assert_frame_equal(read, table())
            assert about == ABOUT
    assert len(reasons) > len(good) / 3
    assert all(f"table {path}: " in reason and "\n" not in reason for reason in reasons)


def test_a_changed_figure_is_noticed_whoever_wrote_it(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_parquet(path, table(), SCHEMA, ABOUT)
    stored = pq.read_table(path)
    pq.write_table(stored.set_column(1, "size", pa.array([1, 2, 4])), path)
    with pytest.raises(DataError, match="expected the values that were written, but the file was altered"):
        read_parquet(path, SCHEMA, "table")
    pq.write_table(stored.replace_schema_metadata({b"gearnn.level": b"pristine"}), path)  # of a version without digests
    assert read_parquet(path, SCHEMA, "table")[1] == {"level": "pristine"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": ["x", "y", "z"]}, "expected score as double, but got string"),
        ({"size": [1.5, 2.5, 3.5]}, "expected columns name string, size int64, score double, but got"),
        ({"name": [b"\xff", b"b", b"c"]}, "expected columns name string"),
        ({"score": [[1.0], [2.0], [3.0]]}, "expected score as double, but got list"),
    ],
)
def test_columns_of_other_types_are_named(tmp_path: Path, change: dict[str, list[object]], message: str) -> None:
    columns = {"name": ["a", "b", "c"], "size": [1, 2, 3], "score": [0.5, 1.0, 2.0]} | change
    pq.write_table(pa.table(columns).replace_schema_metadata({"gearnn.x": "1"}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=message):
        read_parquet(tmp_path / "t.parquet", SCHEMA, "table")


def test_a_table_without_facts_is_refused(tmp_path: Path) -> None:
    table().to_parquet(tmp_path / "t")
    with pytest.raises(DataError, match="expected a table with facts on the whole"):
        read_parquet(tmp_path / "t", SCHEMA, "table")


def test_facts_that_are_no_text_are_one_line(tmp_path: Path) -> None:
    pq.write_table(pa.table({"name": ["a"]}).replace_schema_metadata({b"gearnn.x": b"\xff\xfe"}), tmp_path / "t")
    with pytest.raises(DataError, match="expected a Parquet file, but got"):
        read_parquet(tmp_path / "t", SCHEMA, "table")
    with pytest.raises(DataError, match="no such file"):
        read_parquet(tmp_path, SCHEMA, "table")


def test_numbers_may_be_narrower(tmp_path: Path) -> None:
    columns = {"name": ["a"], "size": pa.array([1], pa.int32()), "score": pa.array([0.5], pa.float32())}
    pq.write_table(pa.table(columns).replace_schema_metadata({"gearnn.x": "1"}), tmp_path / "t")
    assert read_parquet(tmp_path / "t", SCHEMA, "table")[0].to_dict("list") == {
        "name": ["a"],
        "size": [1],
        "score": [0.5],
    }
