"""JPEGs that were saved twice, against what was done to them."""

import io
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image

from gearnn.datasets import Camera
from gearnn.datasets.streets import Streets
from gearnn.distortions import Received, Sensor, encode, jpeg, recompression, sense
from gearnn.levels import DistortionLevel
from tests.conftest import REPOSITORY

FILES = REPOSITORY / "tests" / "distortions" / "files"
LEVEL = DistortionLevel.parse


@pytest.fixture(scope="module")
def scenes() -> list[Image.Image]:
    frames = Streets("twice", 3, 0, Camera(size=(240, 180)))
    return [frames.frame(index) for index in range(3)]


def saved(image: Image.Image, quality: int, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality, **options)
    return buffer.getvalue()


def decoded(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def first_of(data: bytes) -> int | None:
    """The quality of the first save, or None where there was none."""
    sensed = sense(data)
    return int(dict(sensed.level.parts[0].parameters)["quality"]) if sensed.note else None


@pytest.mark.parametrize(
    ("first", "last"), [(5, 30), (5, 95), (10, 50), (10, 90), (20, 70), (30, 90), (50, 95), (70, 90)]
)
def test_the_quality_of_a_coarser_first_save_is_sensed(scenes: list[Image.Image], first: int, last: int) -> None:
    for scene in scenes:
        sensed = sense(encode(scene, f"jpeg:quality={first}+jpeg:quality={last}"))
        got = int(dict(sensed.level.parts[0].parameters)["quality"])
        assert abs(got - first) <= 1
        assert sensed.note == f"saved at a quality of {last} after one of about {got}"


def test_frames_saved_once_are_never_taken_as_saved_twice(scenes: list[Image.Image]) -> None:
    for quality in range(1, 101):
        scene, options = scenes[quality % 3], {"subsampling": quality % 3, "progressive": quality % 2 == 0}
        assert first_of(saved(scene, quality, **options)) is None
        assert first_of(saved(scene.convert("L"), quality)) is None


@pytest.mark.parametrize(("first", "last"), [(90, 10), (90, 50), (95, 90), (50, 50), (70, 70)])
def test_a_finer_or_equal_first_save_leaves_no_mark(scenes: list[Image.Image], first: int, last: int) -> None:
    assert [first_of(saved(decoded(saved(scene, first)), last)) for scene in scenes] == [None] * 3


def test_a_first_save_on_another_grid_is_not_seen(scenes: list[Image.Image]) -> None:
    """What the documentation says cannot be found: after a crop by three pixels, and after a change of size."""
    for scene in scenes:
        once = decoded(saved(scene, 10))
        cropped, scaled = once.crop((3, 3, 240, 180)), once.resize((200, 150))
        assert [first_of(saved(changed, 90)) for changed in (cropped, scaled)] == [None, None]
        assert first_of(saved(once.crop((8, 16, 240, 180)), 90)) == 10


def lying_on_its_side() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()


@pytest.mark.parametrize(
    "options", [{"subsampling": 0}, {"progressive": True}, {"optimize": True}, {"exif": lying_on_its_side()}]
)
def test_however_the_last_save_is_coded_or_turned(scenes: list[Image.Image], options: dict[str, object]) -> None:
    assert first_of(saved(decoded(saved(scenes[0], 10)), 90, **options)) == 10
    assert first_of(saved(decoded(saved(scenes[0].convert("L"), 10)).convert("L"), 90)) == 10


def test_pictures_that_say_nothing_are_as_their_tables_say() -> None:
    rng = np.random.default_rng(0)
    tiles = np.tile(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), (30, 40, 1))  # one block a thousand times
    for image in (Image.new("RGB", (240, 180)), Image.new("RGB", (5, 3), (9, 200, 30)), Image.fromarray(tiles)):
        for quality in (10, 50, 75, 90, 95, 100):
            assert first_of(saved(image, quality)) is None


def test_files_that_cannot_be_decoded_are_as_their_tables_say(scenes: list[Image.Image]) -> None:
    data = saved(decoded(saved(scenes[0], 10)), 90)
    for damaged in (data[: len(data) // 2], data[: data.index(b"\xff\xda") + 20]):
        assert str(sense(damaged).level) == "jpeg:quality=90"
    for file in sorted(Path(FILES).glob("*.jpg")):
        sense(file.read_bytes())  # of RGB and CMYK, arithmetic, with tables of 16 bits


def test_only_the_header_is_read_where_that_is_wanted(scenes: list[Image.Image]) -> None:
    data = encode(scenes[0], "jpeg:quality=10+jpeg:quality=90")
    with patch.object(recompression, "open_image", side_effect=AssertionError):
        assert str(sense(data, closely=False).level) == "jpeg:quality=90"


@pytest.mark.parametrize(
    ("levels", "last", "looks"),
    [
        (["jpeg:quality=10", "jpeg:quality=90"], 90, True),
        (["jpeg:quality=10", "jpeg:quality=90"], 20, False),  # the strongest gear is used already
        (["jpeg:quality=95"], 95, False),
        (["jpeg:quality=30"], 100, True),  # the base runs at 100
        (
            ["brightness:factor=0.3+jpeg:quality=10", "jpeg:quality=50"],
            50,
            False,
        ),  # what the combination lacks: calibration
    ],
)
def test_a_sensor_looks_at_pixels_only_where_a_stronger_gear_waits(
    scenes: list[Image.Image], levels: list[str], last: int, looks: bool
) -> None:
    sensor, data = Sensor(map(LEVEL, levels)), saved(decoded(saved(scenes[1], 10)), last)
    with patch.object(jpeg, "first_quality", wraps=recompression.first_quality) as look:
        jpeg._first.cache_clear()
        sensed = sensor(Received(data))
        assert look.called is looks
        assert str(sensed.level) == f"jpeg:quality={10 if looks else last}"
        assert str(sensor(Received(data), closely=False).level) == f"jpeg:quality={last}"


def test_the_coefficients_are_those_of_the_definition(scenes: list[Image.Image]) -> None:
    """Against the sum of ITU-T T.81, A.3.3, for every low frequency of a block."""
    block = np.asarray(scenes[0].convert("L"), float)[:8, :8]
    got = block.reshape(-1) @ recompression._basis()
    zigzag = [divmod(at, 10) for at in (1, 10, 20, 11, 2, 3, 12, 21, 30, 40, 31, 22, 13, 4, 5)]
    y, x = np.mgrid[:8, :8]
    for (down, across), value in zip(zigzag, got, strict=True):
        scale = 0.25 * (0.5**0.5 if down == 0 else 1.0) * (0.5**0.5 if across == 0 else 1.0)
        waves = np.cos((2 * x + 1) * across * np.pi / 16) * np.cos((2 * y + 1) * down * np.pi / 16)
        assert value == pytest.approx(scale * float((block * waves).sum()), abs=1e-3)
