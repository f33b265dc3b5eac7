"""The commands that are printed can be pasted into a shell, whatever the folder is called."""

import shlex
from pathlib import Path

import pytest

from flows.cli.registry import serving
from gearnn.registry import runs


def test_addresses_in_printed_commands_are_one_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run #1").mkdir()
    monkeypatch.chdir(tmp_path / "run #1")
    for name in ("GEARNN_HOME", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    address = f"sqlite:///{tmp_path}/run #1/.gearnn/mlflow.db"
    for line in (serving("base.gearbox"), runs.ui_command()):
        assert any(address in word for word in shlex.split(line, comments=True)), line
