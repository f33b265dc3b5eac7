"""Commands that are asked to end, as real processes with a Prefect server of their own."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.conftest import PYTHONPATH, REPOSITORY

PLAN = {
    "base": {"name": "drn_d_22_quarter", "num_classes": 9, "train": {"epochs": 100_000, "batch_size": 8}},
    "data": {"name": "streets", "frames": {"train": 8, "val": 4, "test": 4}, "camera": {"size": [48, 32]}},
    "levels": ["jpeg:quality=5"],
    "bound": {"fraction": 0.05},
}
"""A base that would train for hours."""


@contextmanager
def training(folder: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The command, in a group of its own that is gone afterwards, Prefect's server with it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_API")}
    environment |= {"GEARNN_HOME": str(folder / "home"), "PYTHONPATH": PYTHONPATH}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gearnn", "train-base", "plan.yaml"],
            cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def epoch(process: subprocess.Popen[bytes], log: Path, at_least: int) -> int:
    """The last epoch that the log gives, once it is this one."""
    while process.poll() is None:
        told = [int(number) for number in re.findall(r"training the base: epoch (\d+) of", log.read_text())]
        if told and told[-1] >= at_least:
            return told[-1]
        time.sleep(0.2)
    raise AssertionError(log.read_text())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_training_ends_at_the_next_step_and_goes_on_later(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(PLAN))
    log = tmp_path / "first.log"
    with training(tmp_path, log) as process:
        reached = epoch(process, log, at_least=3)
        process.send_signal(number)
        assert process.wait(timeout=240) == 130, log.read_text()
    assert "error: stopped; what was finished is stored, and the same command goes on from there" in log.read_text()
    again = tmp_path / "second.log"
    with training(tmp_path, again) as process:
        epoch(process, again, at_least=reached)
    first = re.search(r"training the base: epoch (\d+) of", again.read_text())
    assert first is not None
    assert int(first[1]) >= reached


def children(process: subprocess.Popen[bytes]) -> list[int]:
    """The processes of the command's pool that are there, by what spawn calls them."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            status = (folder / "stat").read_text() if folder.name.isdigit() else ""
            command = (folder / "cmdline").read_bytes() if status else b""
        except OSError:  # it has just ended
            continue
        if b"spawn_main" in command and status.rpartition(")")[2].split()[1] == str(process.pid):
            found.append(int(folder.name))
    return found


def wait_until_gone(process: subprocess.Popen[bytes], pool: list[int]) -> None:
    deadline = time.monotonic() + 30
    while left := {number for number in pool if Path(f"/proc/{number}").exists() and not is_zombie(number)}:
        assert time.monotonic() < deadline, f"{process.args} left {left}"
        time.sleep(0.2)


def is_zombie(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_no_process_of_a_pool_trains_on(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(PLAN | {"runner": "processes", "workers": 1}))
    log = tmp_path / "log"
    with training(tmp_path, log) as process:
        epoch(process, log, at_least=3)
        pool = children(process)
        assert pool
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=240) == 130, log.read_text()
        wait_until_gone(process, pool)


POOL = """
import multiprocessing, time
from concurrent.futures import ProcessPoolExecutor
from tasks.progress import follow_parent
spawn = multiprocessing.get_context("spawn")
pool = ProcessPoolExecutor(1, mp_context=spawn, initializer=follow_parent, initargs=(spawn.Event(),))
pool.submit(time.sleep, 0).result()
pool.submit(time.sleep, 600)
print("works", flush=True)
time.sleep(600)
"""


def test_a_pool_ends_with_a_parent_that_is_killed() -> None:
    process = subprocess.Popen([sys.executable, "-c", POOL], cwd=REPOSITORY, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"works\n"
    pool = children(process)
    assert pool
    process.kill()
    process.communicate()
    wait_until_gone(process, pool)
