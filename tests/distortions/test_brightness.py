import numpy as np
import pytest
from PIL import Image

from gearnn.distortions import decode, distance, distort, encode, sense
from gearnn.errors import SenseError
from gearnn.levels import DistortionLevel


@pytest.mark.parametrize("factor", [0.1, 0.3, 0.5, 1.5, 2.0])
def test_pixels_are_scaled_and_clipped(photo: Image.Image, factor: float) -> None:
    expected = np.clip(np.asarray(photo, np.float64) * factor, 0, 255)
    got = np.asarray(distort(photo, f"brightness:factor={factor}"), np.float64)
    assert np.abs(got - expected).max() <= 1.0


def test_the_encoded_frame_is_exact(photo: Image.Image) -> None:
    level = "brightness:factor=0.3"
    assert np.array_equal(decode(encode(photo, level)), distort(photo, level))


def test_distance_counts_stops() -> None:
    a, b, c = (DistortionLevel.parse(f"brightness:factor={f}") for f in (0.25, 0.5, 2.0))
    assert distance(a, b) == pytest.approx(1.0)
    assert distance(b, c) == pytest.approx(2.0)
    assert distance(DistortionLevel(), c) == pytest.approx(1.0)
    assert distance(a, DistortionLevel.parse("jpeg:quality=10")) == float("inf")


def test_a_png_does_not_tell_its_brightness(photo: Image.Image) -> None:
    with pytest.raises(SenseError, match=r"whose level can be sensed \(jpeg\).*tell the level instead"):
        sense(encode(photo, "brightness:factor=0.3"))


def test_combinations_apply_in_the_order_written(photo: Image.Image) -> None:
    combined = distort(photo, "brightness:factor=0.3+jpeg:quality=10")
    assert np.array_equal(combined, distort(distort(photo, "brightness:factor=0.3"), "jpeg:quality=10"))
