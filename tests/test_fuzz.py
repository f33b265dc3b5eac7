"""A small run of `make fuzz`, and properties over structured inputs."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gearnn.distortions import sense
from gearnn.errors import LevelError, SenseError
from gearnn.levels import DistortionLevel
from tests import fuzz
from tests.conftest import REPOSITORY


def test_damaged_files_give_an_answer_or_a_typed_error_within_bounded_memory() -> None:
    """In a process of its own, because the limit on memory holds for the whole process."""
    command = [sys.executable, "-m", "tests.fuzz", "--inputs", "1500", "--seed", "20"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert result.returncode == 0, result.stderr[-2000:]
    lines = (line.rsplit(None, 1) for line in result.stdout.splitlines() if line.startswith("  "))
    counts = {name.strip(): int(number.replace(",", "")) for name, number in lines}
    for target in ("sense", "sensor", "decode", "size", "read"):
        assert counts[f"{target}: answer"] > 100, target
    assert counts["decode: DataError"] > 100
    assert counts["sense: SenseError"] > 100
    assert counts["adaptor: AdaptorError"] > 10


def test_a_crash_in_a_decoder_is_found_and_its_input_kept() -> None:
    def broken(data: bytes) -> None:
        raise IndexError("beyond the end")

    with pytest.raises(fuzz.Finding, match=r"decode: IndexError: beyond the end; somewhere, kept in .*gearnn-fuzz"):
        fuzz._try("decode", broken, b"input", "somewhere")


values = st.one_of(st.integers(-5, 200), st.floats(-1, 60), st.just(float("nan")), st.text(max_size=5))
parts = st.builds(
    lambda kind, names, separator: f"{kind}:" + separator.join(f"{name}={value}" for name, value in names),
    st.sampled_from(["jpeg", "h264", "brightness", "resolution", "fog", ""]),
    st.lists(
        st.tuples(st.sampled_from(["quality", "crf", "gop", "preset", "factor", "scale", ""]), values), max_size=3
    ),
    st.sampled_from([",", "+", " ,"]),
)


@given(st.lists(parts, max_size=3).map("+".join))
def test_any_text_is_a_level_that_reads_back_or_a_typed_error(text: str) -> None:
    try:
        level = DistortionLevel.parse(text)
    except LevelError:
        return
    assert DistortionLevel.parse(str(level)).slug == level.slug
    assert set(level.slug) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


tables = st.lists(st.integers(0, 65535), min_size=64, max_size=64)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans(), tables), max_size=4),
    st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255), st.integers(0, 5)), max_size=4),
    st.integers(0, 65535),
)
def test_any_header_of_a_jpeg_is_a_quality_or_a_typed_error(
    quantisers: list[tuple[int, bool, list[int]]], components: list[tuple[int, int, int]], side: int
) -> None:
    """Headers that are well formed, with any tables, components and sizes."""
    data = b"\xff\xd8"
    for number, wide, entries in quantisers:
        values = b"".join(e.to_bytes(2, "big") for e in entries) if wide else bytes(e % 256 for e in entries)
        data += segment(0xDB, bytes([(wide << 4) | number]) + values)
    frame = bytes([8]) + side.to_bytes(2, "big") * 2 + bytes([len(components)])
    data += segment(0xC0, frame + b"".join(map(bytes, components))) + segment(0xDA, bytes(6))
    try:
        sensed = sense(data)
    except SenseError:
        return
    assert 1 <= int(dict(sensed.level.parts[0].parameters)["quality"]) <= 100


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content
