"""Tables as Parquet files that describe themselves: columns with their meaning and unit, facts on the whole."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gearnn.errors import DataError

Columns = Mapping[str, tuple[pa.DataType, str]]
"""Name of a column -> its type, and what it holds, unit included."""


def schema_of(columns: Columns) -> pa.Schema:
    """The columns as a schema; every field's metadata has its description."""
    return pa.schema([pa.field(n, t, metadata={"description": d}) for n, (t, d) in columns.items()])


def write_parquet(path: Path, table: pd.DataFrame, schema: pa.Schema, about: Mapping[str, str]) -> None:
    """Write a table.

    Args:
        path: file to write.
        table: with the columns of the schema.
        schema: see :func:`schema_of`.
        about: facts on the whole table; kept in the file's metadata under ``gearnn.<key>``.
    """
    metadata = {f"gearnn.{key}": value for key, value in about.items()}
    pq.write_table(pa.Table.from_pandas(table, schema.with_metadata(metadata), preserve_index=False), path)


def read_parquet(path: Path, schema: pa.Schema, what: str) -> tuple[pd.DataFrame, dict[str, str]]:
    """Read a table and the facts on it.

    Args:
        path: the file.
        schema: whose columns it must have.
        what: kind of table, for messages.

    Raises:
        DataError: the file is no Parquet, or lacks a column.
    """
    try:
        stored = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{what} {path}: expected a Parquet file, but got: {error}") from error
    missing = [name for name in schema.names if name not in stored.column_names]
    if missing:
        raise DataError(f"{what} {path}: expected the columns {list(schema.names)}, but {missing} are missing")
    about = {k.decode(): v.decode() for k, v in (stored.schema.metadata or {}).items()}
    facts = {k.removeprefix("gearnn."): v for k, v in about.items() if k.startswith("gearnn.")}
    return stored.select(list(schema.names)).to_pandas(), facts
