"""Tables as Parquet files that describe themselves: columns with their meaning and unit, facts on the whole.

A table carries a digest of its values and facts, and its pages have checksums, so that no altered figure
is read as if it were right.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gearnn.errors import DataError

Columns = Mapping[str, tuple[pa.DataType, str]]
"""Name of a column -> its type, and what it holds, unit included."""

_PREFIX = "gearnn."
_DIGEST = "content"
"""Fact that is the digest of the rest, and how its value starts; tables of GearNN 0.1 have none."""


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
    stored = pa.Table.from_pandas(table, schema, preserve_index=False)
    facts = {**about, _DIGEST: _digest(stored, about)}
    stored = stored.replace_schema_metadata({f"{_PREFIX}{key}": value for key, value in facts.items()})
    pq.write_table(stored, path, write_page_checksum=True)


def read_parquet(path: Path, schema: pa.Schema, what: str) -> tuple[pd.DataFrame, dict[str, str]]:
    """Read a table and the facts on it.

    Args:
        path: the file.
        schema: whose columns it must have.
        what: kind of table, for messages.

    Raises:
        DataError: the file is no Parquet, lacks a column or has it in another type, or was altered.
    """
    if not path.is_file():
        raise DataError(f"{what} {path}: no such file")
    try:
        stored = pq.read_table(path, page_checksum_verification=True)
        about = {key.decode(): value.decode() for key, value in (stored.schema.metadata or {}).items()}
        missing = [name for name in schema.names if name not in stored.column_names]
    except (pa.ArrowException, OSError, ValueError, TypeError, LookupError, MemoryError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{what} {path}: expected a Parquet file, but got: {reason}") from error
    if missing:
        raise DataError(f"{what} {path}: expected the columns {list(schema.names)}, but {missing} are missing")
    facts = {k.removeprefix(_PREFIX): v for k, v in about.items() if k.startswith(_PREFIX)}
    if not facts:
        raise DataError(f"{what} {path}: expected a table with facts on the whole, but it has none")
    table = _as_typed(stored, schema, f"{what} {path}")
    rest = {key: value for key, value in facts.items() if key != _DIGEST}
    has_digest = _DIGEST in facts or any(value.startswith(f"{_DIGEST} ") for value in rest.values())
    if has_digest and facts.get(_DIGEST) != _digest(table, rest):
        raise DataError(f"{what} {path}: expected the values that were written, but the file was altered")
    return table.to_pandas(), rest


def _as_typed(stored: pa.Table, schema: pa.Schema, what: str) -> pa.Table:
    """The columns of a schema, each in its type; numbers may be wider or narrower where that loses nothing."""
    for field in schema:
        found = stored.schema.field(field.name).type
        if _is_number(found) != _is_number(field.type) and not pa.types.is_null(found):
            raise DataError(f"{what}: expected {field.name} as {field.type}, but got {found}")
    plain = stored.select(schema.names).replace_schema_metadata(None)
    try:
        table = plain.cast(pa.schema([pa.field(field.name, field.type) for field in schema]))
        table.validate(full=True)
    except (pa.ArrowException, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{what}: expected columns {_types(schema)}, but got: {reason}") from error
    return table


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _types(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)


def _digest(table: pa.Table, facts: Mapping[str, str]) -> str:
    """sha256 of a table's values and facts, whatever the file's encoding."""
    content = [sorted(facts.items()), table.column_names, table.to_pylist()]
    return f"{_DIGEST} {hashlib.sha256(json.dumps(content).encode()).hexdigest()}"
