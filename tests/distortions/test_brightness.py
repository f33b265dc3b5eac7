import numpy as np
import pytest
from PIL import Image

from gearnn.datasets import Camera, DistortedDataset
from gearnn.datasets.streets import Streets
from gearnn.distortions import (
    Calibration,
    Received,
    Sensor,
    brightness,
    calibrate,
    decode,
    distance,
    distort,
    encode,
    sense,
)
from gearnn.errors import SenseError
from gearnn.levels import DistortionLevel

LEVELS = ["brightness:factor=0.1", "brightness:factor=0.3", "brightness:factor=2"]


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
    with pytest.raises(SenseError, match=r"whose level can be sensed \(h264, jpeg\).*give the level instead"):
        sense(encode(photo, "brightness:factor=0.3"))


def test_combinations_apply_in_the_order_written(photo: Image.Image) -> None:
    combined = distort(photo, "brightness:factor=0.3+jpeg:quality=10")
    assert np.array_equal(combined, distort(distort(photo, "brightness:factor=0.3"), "jpeg:quality=10"))


def test_features_are_quantiles_of_the_luma_in_stops(photo: Image.Image) -> None:
    """Against numpy's quantiles of the whole frame; the sensor looks at evenly spread pixels only."""
    image = photo.resize((256, 128))
    luma = np.sort(np.asarray(image.convert("L"), float).reshape(-1))
    expected = [np.log2(1 + luma[int(np.ceil(q * luma.size)) - 1]) for q in brightness.QUANTILES]
    *got, saturated = brightness.measure(Received(encode(image, "pristine")))
    assert got == pytest.approx(expected)
    assert saturated == (luma == 255).mean()


def frames(split: str, level: str, number: int = 24) -> DistortedDataset:
    return DistortedDataset(Streets(split, number, 0, Camera(size=(96, 64))), DistortionLevel.parse(level))


@pytest.fixture(scope="module")
def calibration() -> list[Calibration]:
    return [c for level in ("pristine", *LEVELS) for c in calibrate(frames("train", level), ["brightness"])]


def test_calibration_is_mean_and_covariance_over_frames(calibration: list[Calibration]) -> None:
    samples = frames("train", LEVELS[0])
    features = np.array([brightness.measure(Received(samples.encoded(i))) for i in range(len(samples))])
    found = calibration[1]
    assert (str(found.level), found.num_frames, found.values) == (LEVELS[0], 24, {"factor": 0.1})
    assert found.mean == pytest.approx(features.mean(axis=0))
    assert np.array(found.covariance) == pytest.approx(np.cov(features.T, bias=True))
    assert Calibration.from_json(found.to_json()) == found


def test_levels_that_are_far_apart_are_told_apart_on_unseen_frames(calibration: list[Calibration]) -> None:
    sensor = Sensor(map(DistortionLevel.parse, LEVELS), calibration)
    right = total = 0
    for level in (*LEVELS, "brightness:factor=1"):
        samples = frames("val", level, 12)
        for index in range(len(samples)):
            right += sensor(Received(samples.encoded(index))).level == samples.level
            total += 1
    assert right / total > 0.9


def test_the_classifier_is_the_most_likely_normal_distribution(calibration: list[Calibration]) -> None:
    """Against an independent log density, written out with inverse and determinant."""
    from gearnn.distortions import Reference

    references = [Reference(values=c.values, mean=c.mean, covariance=c.covariance) for c in calibration]
    samples = frames("val", "brightness:factor=0.3", 8)
    for index in range(len(samples)):
        features = brightness.measure(Received(samples.encoded(index)))
        densities = []
        for reference in references:
            covariance = np.array(reference.covariance) + 0.01 * np.eye(7)
            offset = np.array(features) - np.array(reference.mean)
            quadratic = float(offset @ np.linalg.inv(covariance) @ offset)
            densities.append(-0.5 * quadratic - 0.5 * np.log(np.linalg.det(covariance)))
        values, misfit = brightness.compare(features, references)
        best = int(np.argmax(densities))
        assert values == references[best].values
        assert misfit > 0


def test_a_dark_frame_through_an_encoder_is_sensed_as_a_pair(calibration: list[Calibration]) -> None:
    levels = [f"brightness:factor={f}+jpeg:quality={q}" for f in (0.1, 1) for q in (20, 60)][:3]
    own = [c for level in levels for c in calibrate(frames("train", level), ["brightness"])]
    sensor = Sensor(map(DistortionLevel.parse, levels), [*own, calibration[0]])
    sensed = sensor(Received(frames("val", "brightness:factor=0.1+jpeg:quality=33").encoded(0)))
    assert str(sensed.level) == "brightness:factor=0.1+jpeg:quality=33"


def test_frames_that_look_like_two_kinds_at_once_are_not_guessed(calibration: list[Calibration]) -> None:
    sensor = Sensor(map(DistortionLevel.parse, [*LEVELS, "jpeg:quality=10"]), calibration)
    dark = frames("val", "brightness:factor=0.1+jpeg:quality=12").encoded(0)
    with pytest.raises(SenseError, match=r"looks like brightness:factor=0.1 and jpeg:quality=12; choose a kind"):
        sensor(Received(dark))
    bright = frames("val", "jpeg:quality=12").encoded(0)
    assert str(sensor(Received(bright)).level) == "jpeg:quality=12"
    untouched = frames("val", "pristine").encoded(0)
    assert sensor(Received(untouched)).level.is_pristine
