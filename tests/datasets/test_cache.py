import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gearnn.datasets import Camera, DistortedDataset, cache
from gearnn.datasets.cache import Filled, Job, clear, fill_cache, usage
from gearnn.datasets.streets import Streets
from gearnn.errors import StoreError
from gearnn.levels import DistortionLevel, expand_levels
from gearnn.store.files import UNFINISHED
from tests.conftest import PYTHONPATH

LEVELS = tuple(expand_levels(["jpeg:quality={10,30}", "h264:crf=30", "brightness:factor=0.3", "pristine"]))


def job(number: int = 20, levels: tuple[DistortionLevel, ...] = LEVELS, size: tuple[int, int] = (48, 32)) -> Job:
    return Job(dataset=Streets("train", number, 0, Camera(size=size)), levels=levels)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def whole_files(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.*") if not p.name.startswith(UNFINISHED)
    }


def test_filling_makes_what_training_would_make(tmp_path: Path) -> None:
    filled = fill_cache([job(6)], tmp_path / "filled", processes=1)
    for level in LEVELS:
        samples = DistortedDataset(job(6).dataset, level, tmp_path / "trained")
        for index in range(6):
            samples.encoded(index)
    made = files(tmp_path / "filled")
    assert made == files(tmp_path / "trained")
    assert filled == Filled(num_written=30, num_bytes=sum(map(len, made.values())), failures={})


def test_processes_make_the_same_files_and_tell_how_far_they_are(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    filled = fill_cache([job()], tmp_path / "two", processes=2, on_done=lambda done, total: seen.append((done, total)))
    fill_cache([job()], tmp_path / "one", processes=1)
    assert files(tmp_path / "two") == files(tmp_path / "one")
    assert filled.num_written == 100
    assert seen[-1] == (100, 100)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    again = fill_cache([job()], tmp_path / "two", processes=2)
    assert again.num_written == 0


def test_every_source_frame_is_decoded_once_for_all_levels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    frame = Streets.frame
    monkeypatch.setattr(Streets, "frame", lambda self, index: (read.append(index), frame(self, index))[1])
    fill_cache([job(5)], tmp_path, processes=1)
    assert read == [0, 1, 2, 3, 4]


def test_a_level_that_a_codec_refuses_does_not_hold_up_the_others(tmp_path: Path) -> None:
    filled = fill_cache([job(3, size=(45, 31))], tmp_path, processes=1)
    assert list(filled.failures) == ["h264:crf=30"]
    assert "frame train-0000" in filled.failures["h264:crf=30"]
    assert "expected frames with an even width and height" in filled.failures["h264:crf=30"]
    assert filled.num_written == 12


SCRIPT = """
import sys
from pathlib import Path
from gearnn.datasets.cache import fill_cache
from tests.datasets.test_cache import job
if __name__ == "__main__":
    fill_cache([job(120)], Path(sys.argv[1]), processes=2)
"""


def test_a_killed_run_leaves_nothing_half_written_and_is_resumed(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    folder = tmp_path / "cache"
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    command = [sys.executable, str(tmp_path / "script.py"), str(folder)]
    with subprocess.Popen(command, env=environment, start_new_session=True) as process:
        deadline = time.monotonic() + 120
        while len(whole_files(folder)) < 40 and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    survived = whole_files(folder)
    assert 40 <= len(survived) < 600
    fill_cache([job(120)], tmp_path / "whole", processes=2)
    whole = files(tmp_path / "whole")
    assert survived.items() <= whole.items()
    resumed = fill_cache([job(120)], folder, processes=2)
    assert resumed.num_written == len(whole) - len(survived)
    assert whole_files(folder) == whole


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT.replace("120", "4000"))
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "cache")]
    with subprocess.Popen(command, env=environment, start_new_session=True) as process:
        deadline = time.monotonic() + 120
        while not whole_files(tmp_path / "cache") and time.monotonic() < deadline:
            time.sleep(0.05)
        group = process.pid
        process.kill()
    while _running(group) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _running(group) == []


def _running(group: int) -> list[str]:
    """Processes of a group that are still there, zombies and multiprocessing's own helper aside."""
    lines = subprocess.run(["ps", "-eo", "pgid,stat,args"], capture_output=True, text=True, check=True).stdout
    fields = [line.split(None, 2) for line in lines.splitlines()[1:]]
    return [f[2] for f in fields if f[0] == str(group) and not f[1].startswith("Z") and "resource_tracker" not in f[2]]


def _die(chunk: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_work", _die)
    with pytest.raises(StoreError, match="expected its processes to finish, but one was ended from outside"):
        fill_cache([job()], tmp_path, processes=2)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 300 kB; mounting needs root, as in CI."""
    folder = Path(tempfile.mkdtemp())
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        shutil.rmtree(folder)
        if os.environ.get("GEARNN_REQUIRE"):
            pytest.fail(f"cannot mount a small file system: {mounted.stderr.decode()}")
        pytest.skip("needs root to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
    folder.rmdir()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_full_disk_is_one_line_and_leaves_only_whole_files(small_disk: Path, tmp_path: Path, processes: int) -> None:
    with pytest.raises(StoreError) as caught:
        fill_cache([job(60)], small_disk, processes=processes)
    assert "No space left on device" in str(caught.value)
    assert "free some space (`gearnn cache show`)" in str(caught.value)
    assert "\n" not in str(caught.value)
    fill_cache([job(60)], tmp_path, processes=2)
    kept = files(small_disk)
    assert kept.items() <= files(tmp_path).items()
    assert kept


def test_a_full_disk_while_training_is_the_same_line(small_disk: Path) -> None:
    samples = DistortedDataset(job(200).dataset, DistortionLevel(), small_disk)
    with pytest.raises(StoreError, match="No space left on device"):
        list(map(samples.encoded, range(200)))
    assert not list(small_disk.rglob(f"{UNFINISHED}*"))


def test_the_size_report_and_clearing(tmp_path: Path) -> None:
    fill_cache([job(4)], tmp_path, processes=1)
    report = {entry.name: entry for entry in usage(tmp_path)}
    assert set(report) == {level.slug for level in LEVELS}
    assert all(entry.num_files == 4 for entry in report.values())
    sizes = [entry.num_bytes for entry in usage(tmp_path)]
    assert sizes == sorted(sizes, reverse=True)
    removed = clear(tmp_path, ["jpeg-quality-10", "none"])
    assert removed.num_files == 4
    assert "jpeg-quality-10" not in {entry.name for entry in usage(tmp_path)}
    assert clear(tmp_path).num_files == 16
    assert usage(tmp_path) == []


def test_clearing_stays_within_the_cache(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    with pytest.raises(StoreError, match=r"expected the name of a file inside of its folder, but got '../precious'"):
        clear(tmp_path / "frames", ["../precious"])
    assert (tmp_path / "precious").is_dir()
