import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gearnn.distortions import decode, distort, encode, jpeg, sense
from gearnn.errors import SenseError
from tests.conftest import REPOSITORY

FILES = REPOSITORY / "tests" / "distortions" / "files"


def quality_of(data: bytes) -> int:
    return int(dict(sense(data).level.parts[0].parameters)["quality"])


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_quality_that_pillow_wrote_is_sensed(photo: Image.Image, subsampling: int, mode: str) -> None:
    for quality in range(1, 101):
        buffer = io.BytesIO()
        photo.convert(mode).save(buffer, format="JPEG", quality=quality, subsampling=subsampling)
        sensed = sense(buffer.getvalue())
        assert (str(sensed.level), sensed.misfit) == (f"jpeg:quality={quality}", 0.0)


@pytest.mark.parametrize(
    ("name", "quality"),
    [
        ("cjpeg_q35_444", 35),
        ("cjpeg_q35_420", 35),
        ("cjpeg_q60_progressive", 60),
        ("cjpeg_q60_arithmetic", 60),
        ("cjpeg_q25_grey", 25),
        ("cjpeg_q50_rgb", 50),
        ("cjpeg_q3_16bit_tables", 3),
        ("cmyk_q40", 40),
    ],
)
def test_files_with_libjpegs_tables_are_exact_whatever_their_coding(name: str, quality: int) -> None:
    sensed = sense((FILES / f"{name}.jpg").read_bytes())
    assert (str(sensed.level), sensed.misfit) == (f"jpeg:quality={quality}", 0.0)


@pytest.mark.parametrize(
    ("name", "quality"),
    [
        ("mozjpeg_q75", 75),
        ("mozjpeg_q30_psnr_tables", 30),
        ("camera_three_tables_422", 93),
        ("cjpeg_q80_40_separate", 77),
    ],
)
def test_tables_of_other_encoders_go_to_the_nearest_quality_with_its_distance(name: str, quality: int) -> None:
    data = (FILES / f"{name}.jpg").read_bytes()
    sensed = sense(data)
    assert abs(quality_of(data) - quality) <= 5
    assert 0.05 < sensed.misfit < 1.0
    assert sensed.misfit == pytest.approx(distance_by_hand(data, quality_of(data)))
    others = [distance_by_hand(data, q) for q in range(1, 101)]
    assert min(others) == pytest.approx(sensed.misfit)


def distance_by_hand(data: bytes, quality: int) -> float:
    """Mean |log2| ratio of luma and first chroma tables, entry by entry, with libjpeg's scaling done here."""
    with Image.open(io.BytesIO(data)) as image:
        assert isinstance(image, Image.Image)
        tables = [image.quantization[image.layer[i][3]] for i in (0, 1)]  # type: ignore[attr-defined]
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, format="JPEG", quality=50)
    with Image.open(io.BytesIO(buffer.getvalue())) as image:
        standard = image.quantization  # type: ignore[attr-defined]
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    total = 0.0
    for number, table in enumerate(tables):
        for ours, base in zip(table, standard[number], strict=True):
            theirs = min(max((base * scale + 50) // 100, 1), 255)
            total += abs(float(np.log2(ours)) - float(np.log2(theirs)))
    return total / 128


def test_foreign_tables_go_to_the_nearest_quality_and_the_misfit_tells(photo: Image.Image) -> None:
    tables = Image.open(io.BytesIO(encode(photo, "jpeg:quality=40"))).quantization  # type: ignore[attr-defined]
    foreign = [[min(255, value + 2) for value in tables[key]] for key in sorted(tables)]
    buffer = io.BytesIO()
    photo.save(buffer, format="JPEG", qtables=foreign)
    assert 33 <= quality_of(buffer.getvalue()) <= 40
    assert 0.0 < sense(buffer.getvalue()).misfit < 0.5


def test_sensing_decodes_no_pixels(photo: Image.Image) -> None:
    data = encode(photo, "jpeg:quality=15")
    header = data[: data.index(b"\xff\xda") + 20]  # up to the start of the first scan
    assert str(sense(header).level) == "jpeg:quality=15"


def test_distort_is_decode_of_encode(photo: Image.Image) -> None:
    frame = distort(photo, "jpeg:quality=10")
    assert frame.size == photo.size
    assert frame.mode == "RGB"
    assert np.array_equal(frame, decode(encode(photo, "jpeg:quality=10")))


def test_lower_quality_is_further_from_the_original(photo: Image.Image) -> None:
    def error(quality: int) -> float:
        difference = np.asarray(distort(photo, f"jpeg:quality={quality}"), float) - np.asarray(photo, float)
        return float(np.abs(difference).mean())

    assert error(5) > error(20) > error(60) > error(100) > 0


def without_tables(data: bytes) -> bytes:
    """A JPEG whose DQT segments were cut out, as in abbreviated streams."""
    while (at := data.find(b"\xff\xdb")) >= 0:
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        data = data[:at] + data[at + 2 + length :]
    return data


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe0\x00\x10JFIF", b"\x89PNG\r\n\x1a\n", b"BM" + bytes(60)]
)
def test_bytes_without_tables_are_a_typed_error(data: bytes) -> None:
    with pytest.raises(SenseError, match="expected"):
        sense(data)


def test_a_file_whose_tables_are_missing_is_a_typed_error() -> None:
    data = without_tables((FILES / "cjpeg_q35_420.jpg").read_bytes())
    with pytest.raises(SenseError, match="expected a JPEG with its quantisation tables, but table 0 is missing"):
        sense(data)


def test_truncation_at_every_byte_of_the_header_is_an_answer_or_a_typed_error() -> None:
    data = (FILES / "camera_three_tables_422.jpg").read_bytes()
    whole = sense(data)
    answers = 0
    for length in range(data.index(b"\xff\xda") + 20):
        try:
            assert sense(data[:length]) == whole
            answers += 1
        except SenseError:
            pass
    assert answers >= 1


@given(st.binary(max_size=200), st.integers(0, 1_000_000))
def test_random_damage_gives_an_answer_or_a_typed_error(noise: bytes, position: int) -> None:
    data = jpeg.encode(Image.new("RGB", (16, 16), (90, 120, 30)), quality=30)
    at = position % len(data)
    try:
        quality = quality_of(data[:at] + noise + data[at + len(noise) :])
    except SenseError:
        return
    assert 1 <= quality <= 100


def test_the_fixtures_lie_where_they_are_read() -> None:
    assert len(list(Path(FILES).glob("*.jpg"))) == 12
