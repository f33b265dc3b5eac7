"""What sensors say of frames that they cannot know."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gearnn.datasets import Camera, DistortedDataset
from gearnn.datasets.streets import Streets
from gearnn.distortions import Calibration, Kind, Received, Sensed, Sensor, ask, brightness, calibrate, encode, kind_of
from gearnn.distortions import resolution as scaling
from gearnn.distortions.kinds import Reading, Reference, Values
from gearnn.errors import DataError, SenseError
from gearnn.gears.choice import Policy, choose
from gearnn.levels import DistortionLevel

LEVEL = DistortionLevel.parse
DARK, BRIGHT = "brightness:factor=0.3", "brightness:factor=1.6"
SIZE = (96, 64)


@pytest.fixture(scope="module")
def calibration() -> list[Calibration]:
    frames = Streets("train", 60, 0, Camera(size=SIZE))
    return [
        c
        for level in ("pristine", DARK, BRIGHT)
        for c in calibrate(DistortedDataset(frames, LEVEL(level)), ["brightness"])
    ]


def of_pixels(values: np.ndarray) -> Received:
    return Received.of_image(Image.fromarray(np.broadcast_to(values, (SIZE[1], SIZE[0], 3)).astype(np.uint8)))


ODD = {
    "black": of_pixels(np.zeros(1)),
    "white": of_pixels(np.full(1, 255)),
    "grey": of_pixels(np.full(1, 128)),
    "almost black": of_pixels(np.random.default_rng(0).integers(0, 4, (SIZE[1], SIZE[0], 3))),
    "black and white": of_pixels(255 * (np.arange(SIZE[0]) % 2)[None, :, None]),
}


@pytest.mark.parametrize("name", ODD)
def test_frames_without_a_scene_are_off_the_map(calibration: list[Calibration], name: str) -> None:
    levels = [LEVEL(DARK), LEVEL(BRIGHT)]
    sensed = Sensor(levels, calibration)(ODD[name])
    assert sensed.misfit > brightness.MAX_MISFIT
    choice = choose(sensed, levels, Policy())
    assert choice.off_map.startswith("unlike every level of brightness: a misfit of ")
    assert choose(sensed, levels, Policy(off_map="base")).used.is_pristine
    with pytest.raises(SenseError, match="but the frame is unlike every level of brightness"):
        choose(sensed, levels, Policy(off_map="error"))


def test_frames_of_the_calibrated_levels_are_on_the_map(calibration: list[Calibration]) -> None:
    sensor, unlike = Sensor([LEVEL(DARK), LEVEL(BRIGHT)], calibration), 0
    frames = Streets("val", 20, 0, Camera(size=SIZE))
    for level in ("pristine", DARK, BRIGHT):
        samples = DistortedDataset(frames, LEVEL(level))
        unlike += sum(bool(Policy().unlike(sensor(Received(samples.encoded(i))))) for i in range(len(samples)))
    assert unlike <= 3  # of 60


def test_the_limit_is_what_one_of_ten_thousand_normal_frames_exceeds() -> None:
    """Chi with seven degrees of freedom: the survival function in closed form."""
    x = brightness.MAX_MISFIT
    tail = math.erfc(x / math.sqrt(2)) + math.sqrt(2 / math.pi) * math.exp(-x * x / 2) * (x + x**3 / 3 + x**5 / 15)
    assert 0.5e-4 < tail < 1.0e-4


def test_another_kinds_doubt_travels_with_the_answer(calibration: list[Calibration]) -> None:
    """The tables of a black JPEG are sure; what it shows is not. Its brightness is what the gearbox is unsure of."""
    levels = [LEVEL("jpeg:quality=10"), LEVEL(BRIGHT)]
    some = [c for c in calibration if str(c.level) != DARK]
    black = Received(encode(Image.new("RGB", SIZE), "jpeg:quality=10"))
    sensed = Sensor(levels, some)(black)
    assert (str(sensed.level), sensed.misfit) == ("jpeg:quality=10", 0.0)
    assert sensed.misfits["brightness"] > brightness.MAX_MISFIT
    assert choose(sensed, levels, Policy()).off_map.startswith("unlike every level of brightness")


def test_the_misfit_of_a_combination_is_the_sum_of_its_parts(calibration: list[Calibration]) -> None:
    pair = "brightness:factor=0.3+jpeg:quality=50"
    own = calibrate(DistortedDataset(Streets("train", 20, 0, Camera(size=SIZE)), LEVEL(pair)), ["brightness"])
    frame = Streets("val", 1, 0, Camera(size=SIZE)).frame(0)
    sensed = Sensor([LEVEL(pair)], [*own, calibration[0]])(Received(encode(frame, pair)))
    assert set(sensed.misfits) == {"brightness", "jpeg"}
    assert sensed.misfit == pytest.approx(sum(sensed.misfits.values()))


def test_calibration_frames_that_are_alike_tell_nothing(calibration: list[Calibration]) -> None:
    """As of a camera whose cap is on: every level is black."""
    black = [replace(calibration[0], level=c.level) for c in calibration]
    message = r"the calibration frames of factor 0.3 and of (1|1.6) are alike, so a frame does not say which it is"
    with pytest.raises(SenseError, match=message):
        Sensor([LEVEL(DARK), LEVEL(BRIGHT)], black)(ODD["grey"])


def test_of_equally_likely_brightnesses_the_stronger_is_taken() -> None:
    spread = tuple(tuple(float(i == j) for j in range(7)) for i in range(7))
    above, below = ((offset, *(0.0,) * 6) for offset in (1.0, -1.0))
    references = [Reference(values={"factor": f}, mean=m, covariance=spread) for f, m in ((0.9, above), (0.1, below))]
    for order in (references, references[::-1]):
        assert brightness.compare((0.0,) * 7, order)[0] == {"factor": 0.1}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_features_that_are_no_numbers_are_refused(
    calibration: list[Calibration], monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    broken = replace(kind_of("brightness"), measure=lambda received: (value, *(0.0,) * 6))
    monkeypatch.setattr("gearnn.distortions.sensor.kind_of", lambda name: broken)
    with pytest.raises(SenseError, match=f"brightness: expected finite features, but measured {value}, 0"):
        Sensor([LEVEL(DARK), LEVEL(BRIGHT)], calibration)(ODD["grey"])
    monkeypatch.setattr("gearnn.distortions.calibration.kind_of", lambda name: broken)
    with pytest.raises(DataError, match=r"brightness at brightness:factor=0.3: expected finite features"):
        calibrate(DistortedDataset(Streets("train", 2, 0, Camera(size=SIZE)), LEVEL(DARK)), ["brightness"])


@pytest.mark.parametrize("misfit", [math.nan, math.inf, -1.0])
def test_misfits_that_cannot_be_compared_are_refused(monkeypatch: pytest.MonkeyPatch, misfit: float) -> None:
    reading = replace(kind_of("jpeg"), sense=lambda received: Reading({"quality": 10}, misfit))
    with pytest.raises(SenseError, match=f"jpeg: expected a finite misfit of at least 0, but got {misfit}"):
        ask(reading, Received(b""))

    def compare(features: Sequence[float], references: Sequence[Reference]) -> tuple[Values, float]:
        return references[0].values, misfit

    comparing: Kind = replace(kind_of("resolution"), compare=compare)
    monkeypatch.setattr("gearnn.distortions.sensor.kind_of", lambda name: comparing)
    frames = DistortedDataset(Streets("train", 2, 0, Camera(size=SIZE)), DistortionLevel())
    undistorted = calibrate(frames, ["resolution"])[0]
    half = replace(undistorted, level=LEVEL("resolution:0.5"))
    with pytest.raises(SenseError, match="resolution: expected a finite misfit"):
        Sensor([LEVEL("resolution:0.5")], [undistorted, half])(ODD["grey"])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Reading({"crf": 10}, 0.0), "values of quality, but got crf"),
        (Reading({"quality": 10, "crf": 10}, 0.0), "values of quality, but got quality, crf"),
        (Reading({}, 0.0), "values of quality, but got none"),
        (Sensed(LEVEL("jpeg:quality=10"), 0.0), "a Reading, but got Sensed"),
    ],
)
def test_a_sensor_that_answers_with_anything_but_its_own_values_is_refused(answer: Any, expected: str) -> None:
    odd = replace(kind_of("jpeg"), sense=lambda received: answer)
    with pytest.raises(SenseError, match=f"jpeg: expected its sensor to give {expected}"):
        ask(odd, Received(b""))


def test_sizes_of_a_calibration_of_mixed_sizes_are_not_guessed() -> None:
    mixed = Reference(values={"scale": 1.0}, mean=(7.0, 6.0), covariance=((0.1, 0.0), (0.0, 0.1)))
    half = Reference(values={"scale": 0.5}, mean=(6.0, 5.0), covariance=((0.0, 0.0), (0.0, 0.0)))
    with pytest.raises(DataError, match="resolution: the calibration frames of a level differ in size"):
        scaling.compare((6.0, 5.0), [mixed, half])


def test_sizes_that_rounding_explains_fit_and_others_do_not() -> None:
    whole, half = (
        Reference(
            values={"scale": s}, mean=(math.log2(240 * s), math.log2(180 * s)), covariance=((0.0, 0.0), (0.0, 0.0))
        )
        for s in (1.0, 0.5)
    )
    for scale in np.linspace(0.05, 1.0, 96):
        width, height = scaling.scaled_size((240, 180), float(scale))
        values, misfit = scaling.compare((math.log2(width), math.log2(height)), [whole, half])
        assert misfit == 0.0
        assert abs(float(values["scale"]) - scale) < 0.05 * scale + 0.005
    for size in ((160, 90), (320, 240), (240, 240), (8, 6)):
        misfit = scaling.compare((math.log2(size[0]), math.log2(size[1])), [whole, half])[1]
        assert misfit > kind_of("resolution").max_misfit


def test_a_covariance_that_is_none_is_refused(calibration: list[Calibration]) -> None:
    content = calibration[0].to_json()
    negative = [[-float(i == j) for j in range(7)] for i in range(7)]
    lopsided = [[float(j >= i) for j in range(7)] for i in range(7)]
    for covariance in (negative, lopsided):
        with pytest.raises(ValueError, match="expected a covariance, symmetric and without negative variances"):
            Calibration.from_json({**content, "covariance": covariance})


def test_no_frames_are_no_calibration() -> None:
    class Nothing:
        level = LEVEL(DARK)

        def __len__(self) -> int:
            return 0

        def encoded(self, index: int) -> bytes:
            raise IndexError(index)

    with pytest.raises(
        DataError, match=r"expected frames of brightness:factor=0.3 to calibrate brightness, but got none"
    ):
        calibrate(Nothing(), ["brightness"])
