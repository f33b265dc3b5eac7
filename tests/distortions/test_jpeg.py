import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gearnn.distortions import decode, distort, encode, jpeg, sense
from gearnn.errors import SenseError


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_the_quality_that_pillow_wrote_is_sensed(photo: Image.Image, subsampling: int) -> None:
    for quality in range(1, 101):
        buffer = io.BytesIO()
        photo.save(buffer, format="JPEG", quality=quality, subsampling=subsampling)
        sensed = sense(buffer.getvalue())
        assert (str(sensed.level), sensed.misfit) == (f"jpeg:quality={quality}", 0.0)


def test_grey_and_progressive_files_are_sensed(photo: Image.Image) -> None:
    for image, options in ((photo.convert("L"), {}), (photo, {"progressive": True})):
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=37, **options)
        assert str(sense(buffer.getvalue()).level) == "jpeg:quality=37"


def test_foreign_tables_go_to_the_nearest_quality_and_the_misfit_tells(photo: Image.Image) -> None:
    tables = Image.open(io.BytesIO(encode(photo, "jpeg:quality=40"))).quantization
    foreign = [[min(255, value + 2) for value in tables[key]] for key in sorted(tables)]
    buffer = io.BytesIO()
    photo.save(buffer, format="JPEG", qtables=foreign)
    sensed = sense(buffer.getvalue())
    assert 33 <= dict(sensed.level.parts[0].parameters)["quality"] <= 40
    assert 0.0 < sensed.misfit < 0.5


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


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe0\x00\x10JFIF", b"\x89PNG\r\n\x1a\n", b"BM" + bytes(60)]
)
def test_bytes_without_tables_are_a_typed_error(data: bytes) -> None:
    with pytest.raises(SenseError, match="expected"):
        sense(data)


@given(st.binary(max_size=200), st.integers(0, 1_000_000))
def test_random_damage_gives_an_answer_or_a_typed_error(noise: bytes, position: int) -> None:
    data = jpeg.encode(Image.new("RGB", (16, 16), (90, 120, 30)), quality=30)
    at = position % len(data)
    try:
        sensed = sense(data[:at] + noise + data[at + len(noise) :])
    except SenseError:
        return
    assert 1 <= dict(sensed.level.parts[0].parameters)["quality"] <= 100
