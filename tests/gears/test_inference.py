"""Frames whose level is not what it seems, through a gearbox to the answer."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import nn

from gearnn.datasets import Camera, DistortedDataset
from gearnn.datasets.streets import Streets
from gearnn.distortions import Sensor, calibrate, encode
from gearnn.errors import GearError, SenseError
from gearnn.gearbox import GearBox
from gearnn.gears.choice import Policy
from gearnn.gears.inference import Engine, Inference, hints_for
from gearnn.levels import DistortionLevel
from gearnn.machine.compute import Compute
from gearnn.problems.segmentation import SemanticSegmentation
from tests.shared.adaptors import make_adaptor

TEN, THIRTY = "jpeg:quality=10", "jpeg:quality=30"


@pytest.fixture
def gearbox(tiny: nn.Module, problem: SemanticSegmentation) -> GearBox:
    return GearBox(tiny, [make_adaptor(tiny, TEN, ["bn"]), make_adaptor(tiny, THIRTY, ["head"])], problem)


@pytest.mark.parametrize("last", [70, 90, 95])
def test_a_jpeg_that_was_saved_twice_runs_with_the_gear_of_its_first_quality(
    gearbox: GearBox, photo: Image.Image, last: int
) -> None:
    data = encode(photo, f"jpeg:quality=10+jpeg:quality={last}")
    answer = gearbox.infer([data])[0]
    assert (str(answer.sensed), str(answer.used), answer.off_map) == (TEN, TEN, "")
    assert answer.note == f"saved at a quality of {last} after one of about 10"
    assert torch.equal(answer.prediction, gearbox.infer([data], level=TEN)[0].prediction)  # no contradiction
    assert str(gearbox.sense(data).level) == TEN


def test_a_policy_may_go_by_the_header_alone(gearbox: GearBox, photo: Image.Image) -> None:
    data = encode(photo, "jpeg:quality=10+jpeg:quality=90")
    answer = gearbox.infer([data], policy=Policy(closely=False))[0]
    assert (str(answer.sensed), answer.used.is_pristine, answer.note) == ("jpeg:quality=90", True, "")


def test_a_jpeg_with_tables_of_no_quality_is_off_the_map(gearbox: GearBox, photo: Image.Image) -> None:
    data = bytearray(encode(photo, TEN))
    at = data.index(b"\xff\xdb") + 5
    data[at : at + 64] = bytes((1, 255) * 32)
    answer = gearbox.infer([bytes(data)])[0]
    assert answer.off_map.startswith("unlike every level of jpeg: a misfit of ")
    with pytest.raises(SenseError, match=r"frame 0: sensed jpeg:quality=.*unlike every level of jpeg"):
        gearbox.infer([bytes(data)], policy=Policy(off_map="error"))


def test_a_black_frame_is_answered_with_its_doubt(tiny: nn.Module, problem: SemanticSegmentation) -> None:
    frames = Streets("train", 40, 0, Camera(size=(48, 32)))
    level = "brightness:factor=0.3"
    calibration = [
        c
        for one in ("pristine", level)
        for c in calibrate(DistortedDataset(frames, DistortionLevel.parse(one)), ["brightness"])
    ]
    gearbox = GearBox(tiny, [replace(make_adaptor(tiny, level, ["bn"]), calibration=tuple(calibration))], problem)
    black = Image.new("RGB", (48, 32))
    answer = gearbox.infer([black])[0]
    assert answer.misfit > 20
    assert answer.off_map.startswith("unlike every level of brightness: a misfit of ")
    assert gearbox.infer([black], policy=Policy(off_map="base"))[0].used.is_pristine
    assert "unlike every level" in str(gearbox.answers([black], policy=Policy(off_map="error"))[0])


def test_an_engine_needs_no_gearbox(tiny: nn.Module, problem: SemanticSegmentation, photo: Image.Image) -> None:
    levels, asked = [DistortionLevel.parse(TEN), DistortionLevel.parse(THIRTY)], []

    def network_for(levels: list[DistortionLevel]) -> nn.Module:
        asked.append([str(level) for level in levels])
        return tiny.eval()

    engine = Engine(
        sensor=Sensor(levels, []),
        levels=levels,
        network_for=network_for,
        problem=problem,
        compute=Compute.resolve("cpu", "fp32"),
        most_frames=2,
    )
    frames = [encode(photo, TEN), b"no image", encode(photo, THIRTY), encode(photo, "jpeg:quality=29")]
    answers = engine.answers(frames, [None] * 4, trust_hint=False, policy=Policy(), steady=None)
    assert asked == [[TEN, THIRTY], [THIRTY]]
    assert isinstance(answers[1], SenseError)
    assert str(answers[1]).startswith("frame 1: ")
    assert [str(a.sensed) for a in answers if isinstance(a, Inference)] == [TEN, THIRTY, "jpeg:quality=29"]


def test_the_engine_of_a_gearbox_is_as_the_gearbox_is_now(gearbox: GearBox) -> None:
    assert gearbox.engine.most_frames == gearbox.batch_size
    gearbox.batch_size = 3
    assert gearbox.engine.most_frames == 3


def test_hints_are_one_for_all_frames_or_one_for_each() -> None:
    assert hints_for([b"", b""], TEN) == [TEN, TEN]
    assert hints_for([b"", b""], None) == [None, None]
    assert hints_for([b"", b""], [TEN, None]) == [TEN, None]
    with pytest.raises(GearError, match="one for each of 2, but got 1"):
        hints_for([b"", b""], [TEN])
    with pytest.raises(GearError, match="expected a level, or one for each frame, but got int"):
        hints_for([b""], 3)  # type: ignore[arg-type]
