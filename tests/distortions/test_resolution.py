import io
import math

import numpy as np
import pytest
from PIL import Image

from gearnn.distortions import Received, Sensor, calibrate, decode, distance, distort, encode, resolution
from gearnn.errors import LevelError, SenseError
from gearnn.levels import DistortionLevel, expand_levels

PAPER = {
    "1920x960": (0.9375, (1920, 960)),
    "1600x800": (0.78125, (1600, 800)),
    "1280x640": (0.625, (1280, 640)),
    "1024x512": (0.5, (1024, 512)),
    "800x400": (0.390625, (800, 400)),
    "512x256": (0.25, (512, 256)),
    "2048x1024": (1.0, (2048, 1024)),
}


@pytest.mark.parametrize("size", PAPER)
def test_the_papers_sizes_are_scales_of_its_frames(size: str) -> None:
    scale, expected = PAPER[size]
    level = DistortionLevel.parse(f"resolution:{size}")
    assert str(level) == f"resolution:scale={scale:g}"
    assert resolution.scaled_size((2048, 1024), scale) == expected
    assert level.is_pristine == (size == "2048x1024")


def test_sizes_relate_to_the_frame_that_is_told() -> None:
    def scale(text: str, frame: tuple[int, int] | None = None) -> object:
        return dict(DistortionLevel.parse(text, frame_size=frame).parts[0].parameters)["scale"]

    assert scale("resolution:320x180/640x360") == 0.5
    assert scale("resolution:320x180", (640, 360)) == 0.5
    assert scale("resolution:0.3") == 0.3
    assert scale("resolution:60x46", (240, 180)) == 0.25
    assert resolution.scaled_size((240, 180), float(str(scale("resolution:80x60", (240, 180))))) == (80, 60)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resolution:320x240", "expected the shape of undistorted frames, 2048x1024, but got 320x240"),
        ("resolution:100x100/640x360", "expected the shape of undistorted frames, 640x360, but got 100x100"),
        ("resolution:4096x2048", "expected scale to be a number from 0.05 to 1.0, but got 2"),
        ("resolution:0.01", "expected scale to be a number from 0.05 to 1.0, but got 0.01"),
        ("resolution:10x10/0x0", "expected the size of undistorted frames"),
        ("resolution:half", "expected 'kind:name=value', such as 'resolution:scale=0.05', but got 'resolution:half'"),
    ],
)
def test_sizes_that_are_none_are_told(text: str, message: str) -> None:
    with pytest.raises(LevelError) as caught:
        DistortionLevel.parse(text)
    assert message in str(caught.value)


def test_the_network_sees_the_smaller_frame(photo: Image.Image) -> None:
    frame = distort(photo, "resolution:0.5")
    assert frame.size == (96, 64)
    assert np.array_equal(frame, decode(encode(photo, "resolution:0.5")))
    scaled = photo.resize((96, 64), Image.Resampling.BICUBIC)
    error = np.abs(np.asarray(frame, float) - np.asarray(scaled, float)).mean()
    assert error < 6.0  # CRF 18 and 4:2:0, on grainy textures
    assert distort(photo, "resolution:1.0").size == photo.size


def test_distance_counts_octaves_and_order_is_kept(photo: Image.Image) -> None:
    half, quarter = (DistortionLevel.parse(f"resolution:{scale}") for scale in (0.5, 0.25))
    assert distance(half, quarter) == pytest.approx(1.0)
    assert distance(DistortionLevel(), quarter) == pytest.approx(2.0)
    combined = distort(photo, "resolution:0.5+jpeg:quality=20")
    assert np.array_equal(combined, distort(distort(photo, "resolution:0.5"), "jpeg:quality=20"))


class Frames:
    """Frames of one size at a level."""

    def __init__(self, image: Image.Image, level: str) -> None:
        self.image, self.level = image, DistortionLevel.parse(level)

    def __len__(self) -> int:
        return 3

    def encoded(self, index: int) -> bytes:
        return encode(self.image, self.level)


def make_sensor(photo: Image.Image, levels: list[str], kinds: list[str]) -> Sensor:
    calibration = [c for level in ("pristine", *levels) for c in calibrate(Frames(photo, level), kinds)]
    return Sensor(map(DistortionLevel.parse, levels), calibration)


def test_the_scale_is_sensed_from_the_size_of_the_frame(photo: Image.Image) -> None:
    sensor = make_sensor(photo, ["resolution:0.5", "resolution:0.25"], ["resolution"])
    for text in ("resolution:0.5", "resolution:0.25", "resolution:1.0"):
        sensed = sensor(Received(encode(photo, text)))
        assert (sensed.level, sensed.misfit) == (DistortionLevel.parse(text), 0.0)
    between = sensor(Received(encode(photo, "resolution:0.375")))
    assert str(between.level) == "resolution:scale=0.375"
    larger = sensor(Received(encode(photo.resize((384, 256)), "jpeg:quality=90")))
    assert (str(larger.level), larger.misfit) == ("resolution:scale=1", pytest.approx(1.0))
    skewed = sensor(Received(encode(photo.resize((96, 128)), "pristine")))
    assert skewed.misfit == pytest.approx(0.5)


def test_the_size_of_an_image_is_read_without_decoding_it(photo: Image.Image) -> None:
    buffer = io.BytesIO()
    photo.save(buffer, format="PNG")
    assert Received(buffer.getvalue()[:60]).size == photo.size


def test_a_combination_is_sensed_as_a_pair(photo: Image.Image) -> None:
    levels = [str(level) for level in expand_levels("resolution:{0.5,0.25}+jpeg:quality={10,30}")]
    assert len(levels) == 4
    sensor = make_sensor(photo, levels, ["resolution"])
    for text in (*levels, "resolution:1.0+jpeg:quality=55"):
        assert sensor(Received(encode(photo, text))).level == DistortionLevel.parse(text)
    with pytest.raises(SenseError, match=r"expected the header of a JPEG file.*give the level instead"):
        sensor(Received(encode(photo, "resolution:0.5")))


def test_what_a_later_distortion_hides_must_be_told(photo: Image.Image) -> None:
    level = "jpeg:quality=10+resolution:0.5"
    sensor = make_sensor(photo, [level], ["resolution"])
    with pytest.raises(SenseError, match=r"jpeg in jpeg\+resolution: its bytes are gone.*give the level instead"):
        sensor(Received(encode(photo, level)))


def test_without_calibration_the_level_must_be_told(photo: Image.Image) -> None:
    sensor = Sensor([DistortionLevel.parse("resolution:0.5")])
    with pytest.raises(SenseError, match="there is no calibration for it; give the level instead"):
        sensor(Received(encode(photo, "resolution:0.5")))


def test_features_are_octaves(photo: Image.Image) -> None:
    assert resolution.measure(Received(encode(photo, "pristine"))) == (math.log2(192), math.log2(128))
