import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.arithmetic.sitecustomize import DATABASES, fill
from tests.conftest import PYTHONPATH

PROGRAM = """
import torch
from gearnn.machine.compute import Compute
torch.manual_seed(1)
print(Compute.resolve("cpu").precision, Compute.resolve("cpu", "fp32").precision, torch.initial_seed())
"""


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_process_that_a_test_starts_computes_as_the_environment_says(precision: str) -> None:
    given = {"PYTHONPATH": PYTHONPATH, "GEARNN_TEST_PRECISION": precision, "GEARNN_TEST_SEED": "4"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=os.environ | given, capture_output=True, text=True)
    assert done.stdout.split() == [precision, "fp32", "5"], done.stderr


MLFLOW = """
import sys, mlflow
mlflow.MlflowClient(tracking_uri=f"sqlite:///{sys.argv[1]}").create_experiment("own", artifact_location="here")
"""
PREFECT = """
import asyncio, os, sys
os.environ["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = f"sqlite+aiosqlite:///{sys.argv[1]}"
from prefect.server.database import provide_database_interface
asyncio.run(provide_database_interface().create_db())
"""


@pytest.mark.parametrize("program", [MLFLOW, PREFECT], ids=["mlflow", "prefect"])
def test_a_copied_database_has_the_tables_and_rows_of_one_that_was_made(program: str, tmp_path: Path) -> None:
    databases = tmp_path / "databases"
    databases.mkdir()
    for name in ("made", "first", "copied"):
        given = {"PYTHONPATH": PYTHONPATH, DATABASES: "" if name == "made" else str(databases)}
        command = [sys.executable, "-c", program, str(tmp_path / name)]
        subprocess.run(command, env=os.environ | given, check=True, capture_output=True)
    contents = [content(tmp_path / name) for name in ("made", "first", "copied")]
    assert contents[0] == contents[1] == contents[2]
    assert len(contents[0]) > 20


def content(file: Path) -> dict[str, tuple[list[str], int]]:
    """Of every table and index: how it is made, in no order because Prefect's has none, and its number of rows."""
    with closing(sqlite3.connect(file)) as database:
        made = database.execute("SELECT name, type, sql FROM sqlite_master").fetchall()
        tables = [name for name, kind, _ in made if kind == "table"]
        rows = {name: database.execute(f"SELECT count(*) FROM {name!r}").fetchone()[0] for name in tables}
        return {name: (sorted(re.split(r",?\s*\n\s*", sql or "")), rows.get(name, 0)) for name, _, sql in made}


def test_a_database_that_holds_something_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATABASES, str(tmp_path))
    own, done = tmp_path / "own", []

    def make() -> None:
        with closing(sqlite3.connect(own)) as database:
            database.execute(f"CREATE TABLE number{len(done)} (a)")
        done.append(1)

    for _ in range(2):
        fill("test", str(own), make)
    assert content(own).keys() == {"number0", "number1"}
    assert content(tmp_path / "test.db").keys() == {"number0"}
    fill("test", str(tmp_path / "other"), make)
    assert content(tmp_path / "other").keys() == {"number0"}
    fill("test", None, make)
    assert len(done) == 3
