import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gearnn.datasets import Camera, DistortedDataset
from gearnn.datasets.streets import Streets
from gearnn.distortions import distort, sense
from gearnn.levels import DistortionLevel

JPEG = DistortionLevel.parse("jpeg:quality=10")


def streets(level: DistortionLevel, cache: Path | None, num_frames: int = 4) -> DistortedDataset:
    return DistortedDataset(Streets("train", num_frames, 0, Camera(size=(44, 30))), level, cache)


@pytest.mark.parametrize("text", ["jpeg:quality=10", "brightness:factor=0.3", "pristine"])
def test_a_sample_is_the_whole_frame_distorted_once(tmp_path: Path, text: str) -> None:
    level = DistortionLevel.parse(text)
    data = streets(level, tmp_path)
    for _ in range(2):  # encoded, then from the cache
        assert np.array_equal(data[1].image, distort(data.dataset.frame(1), level))
        assert np.array_equal(data[1].target, data.dataset.target(1))


def test_the_cache_holds_the_bytes_that_a_device_would_send(tmp_path: Path) -> None:
    data = streets(JPEG, tmp_path)
    encoded = [data.encoded(index) for index in range(len(data))]
    files = sorted(tmp_path.rglob("*.jpg"))
    assert sorted(path.read_bytes() for path in files) == sorted(encoded)
    assert sense(files[0].read_bytes()).level == JPEG


def test_the_cache_is_keyed_by_content(tmp_path: Path) -> None:
    def count() -> int:
        return len([path for path in tmp_path.rglob("*") if path.is_file()])

    streets(JPEG, tmp_path).encoded(0)
    streets(JPEG, tmp_path, num_frames=9).encoded(0)
    assert count() == 1
    streets(DistortionLevel.parse("jpeg:quality=11"), tmp_path).encoded(0)
    DistortedDataset(Streets("train", 4, 0, Camera(size=(22, 16))), JPEG, tmp_path).encoded(0)
    DistortedDataset(Streets("val", 4, 0, Camera(size=(44, 30))), JPEG, tmp_path).encoded(0)
    assert count() == 4


def changes(data: bytes) -> Iterator[bytes]:
    """The same with a bit flipped here and there, cut off, empty, or with more behind it."""
    for place in range(0, 8 * len(data), 41):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        yield bytes(flipped)
    yield from (data[: len(data) // 2], data[:-1], b"", data + b"\0", data[::-1])


@pytest.mark.parametrize("text", ["jpeg:quality=10", "brightness:factor=0.3", "h264:crf=30"])
def test_an_altered_file_of_the_cache_is_made_anew(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    data = streets(DistortionLevel.parse(text), tmp_path)
    good = data.encoded(0)
    path = data.path(0)
    assert path is not None
    for altered in changes(good):
        path.write_bytes(altered)
        assert data.encoded(0) == good
        assert path.read_bytes() == good
    assert f"{path} was altered, and is made anew" in caplog.text


def test_a_file_of_another_frame_is_not_taken_for_this_one(tmp_path: Path) -> None:
    data = streets(JPEG, tmp_path)
    good = [data.encoded(0), data.encoded(1)]
    first, second = data.path(0), data.path(1)
    assert first is not None
    assert second is not None
    first.write_bytes(good[1])
    assert data.encoded(0) == good[0]
    digest = second.name.partition("-")[2]
    first.rename(first.with_name(f"{first.name.partition('-')[0]}-{digest}"))
    data.path(0).write_bytes(good[1])  # type: ignore[union-attr]
    assert data.encoded(0) == good[0]
    assert sorted(tmp_path.rglob("*.jpg")) == sorted([first, second]), "what was wrong is gone"


def test_frames_of_earlier_versions_are_made_anew(tmp_path: Path) -> None:
    data = streets(JPEG, tmp_path)
    good = data.encoded(0)
    path = data.path(0)
    assert path is not None
    path.rename(path.with_name(f"{path.name.partition('-')[0]}.jpg")).write_bytes(b"altered at some time")
    assert data.path(0) is None
    assert data.encoded(0) == good


def _fill(folder: str) -> int:
    data = streets(JPEG, Path(folder), num_frames=30)
    return sum(len(data.encoded(index)) for index in range(len(data)))


def test_two_processes_may_fill_the_cache_at_once(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first, second = pool.map(_fill, [str(tmp_path)] * 2)
    assert first == second == _fill(str(tmp_path))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 30
    assert not any(path.name.startswith(".writing") for path in files)


def test_without_a_cache_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    streets(JPEG, None)[0]
    assert not list(tmp_path.iterdir())
