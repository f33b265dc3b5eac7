import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from gearnn.adaptor import Adaptor
from gearnn.datasets import Camera, DistortedDataset
from gearnn.datasets.frames import Sample
from gearnn.datasets.streets import Streets
from gearnn.distortions import calibrate, decode, encode, needs_calibration
from gearnn.errors import AdaptorError, DataError, GearError, PlanError, SenseError
from gearnn.gearbox import GearBox, Inference
from gearnn.gears.choice import Policy, Steady
from gearnn.gears.holding import Hold
from gearnn.gears.in_place import InPlace
from gearnn.levels import DistortionLevel
from gearnn.problems.segmentation import Batch, SemanticSegmentation
from tests.conftest import TinyNet
from tests.shared.adaptors import HOLDS, make_adaptor, tune
from tests.shared.clips import strip

LEVELS = ("jpeg:quality=10", "jpeg:quality=30")
STREETS = Streets("train", 16, 0, Camera(size=(96, 64)))


@pytest.fixture
def gearbox(tiny: nn.Module, problem: SemanticSegmentation) -> GearBox:
    adaptors = [make_adaptor(tiny, LEVELS[0], ["bn"]), make_adaptor(tiny, LEVELS[1], ["bn", "head"])]
    return GearBox(tiny, adaptors, problem)


def storages(*models: nn.Module) -> dict[int, int]:
    """Bytes of every distinct storage."""
    tensors = [t for model in models for t in (*model.parameters(), *model.buffers())]
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}


def test_the_base_exists_once_in_memory(gearbox: GearBox) -> None:
    every = storages(gearbox.base, *(gearbox.model(level) for level in LEVELS))
    assert sum(every.values()) - sum(storages(gearbox.base).values()) == 4 * (8 + 8 + 45)


def test_the_pristine_level_is_the_base_itself(gearbox: GearBox) -> None:
    assert gearbox.model("pristine") is gearbox.base
    assert gearbox.model("jpeg:quality=100") is gearbox.base


def test_levels_run_their_own_weights_in_any_order(gearbox: GearBox, tiny: nn.Module) -> None:
    x = torch.randn(2, 3, 8, 8)
    expected = {level: tune(tiny, names)[0](x) for level, names in zip(LEVELS, (["bn"], ["bn", "head"]), strict=True)}
    base = tiny(x)
    for level in (*LEVELS, "pristine", *reversed(LEVELS)):
        assert torch.equal(gearbox(x, level), expected.get(level, base))


@pytest.mark.parametrize(
    ("sensed", "used"),
    [
        ("jpeg:quality=1", "jpeg:quality=10"),
        ("jpeg:quality=10", "jpeg:quality=10"),
        ("jpeg:quality=20", "jpeg:quality=10"),  # as far from 30: the stronger distortion
        ("jpeg:quality=21", "jpeg:quality=30"),
        ("jpeg:quality=65", "jpeg:quality=30"),  # as far from the base at 100
        ("jpeg:quality=66", "pristine"),
        ("jpeg:quality=100", "jpeg:quality=100"),
        ("pristine", "pristine"),
    ],
)
def test_unsupported_levels_go_to_the_nearest_supported_one(gearbox: GearBox, sensed: str, used: str) -> None:
    assert str(gearbox.nearest(sensed)) == used


def test_frames_of_changing_quality_run_with_the_gear_that_fits(gearbox: GearBox, photo: Image.Image) -> None:
    qualities = [8, 95, 33, 100, 12]
    frames = [encode(photo, f"jpeg:quality={quality}") for quality in qualities]
    answers = gearbox.infer(frames)
    assert [str(a.sensed) for a in answers] == [f"jpeg:quality={quality}" for quality in qualities]
    used = ["jpeg:quality=10", "pristine", "jpeg:quality=30", "jpeg:quality=100", "jpeg:quality=10"]
    assert [str(a.used) for a in answers] == used
    for data, answer in zip(frames, answers, strict=True):
        alone = gearbox.infer([data], level=answer.used)[0]
        assert torch.equal(answer.prediction, alone.prediction)
        assert answer.prediction.shape == (photo.height, photo.width)


def test_a_level_that_has_no_gear_is_an_error_never_a_silent_base(gearbox: GearBox, photo: Image.Image) -> None:
    with pytest.raises(
        GearError, match="no adaptor for jpeg:quality=20; this gearbox has jpeg:quality=10, jpeg:quality=30"
    ):
        gearbox.model("jpeg:quality=20")
    with pytest.raises(GearError, match="no adaptor for the distortion brightness; this gearbox has jpeg"):
        gearbox.infer([encode(photo, "brightness:factor=0.3")], level="brightness:factor=0.3")


def test_two_adaptors_for_one_level_are_refused(tiny: nn.Module) -> None:
    twice = [make_adaptor(tiny, LEVELS[0], ["bn"]), make_adaptor(tiny, LEVELS[0], ["head"])]
    with pytest.raises(GearError, match="expected one adaptor for jpeg:quality=10, but got two"):
        GearBox(tiny, twice)


def test_an_adaptor_of_another_base_is_refused(tiny: nn.Module) -> None:
    torch.manual_seed(9)
    with pytest.raises(AdaptorError, match="adaptors fit only the base they were fine-tuned from"):
        GearBox(TinyNet(), [make_adaptor(tiny, LEVELS[0], ["bn"])])


def test_bytes_that_cannot_be_used_are_typed_errors(gearbox: GearBox, photo: Image.Image) -> None:
    with pytest.raises(SenseError, match="give the level instead"):
        gearbox.infer([b"no image"])
    truncated = encode(photo, "jpeg:quality=10")[:900]
    with pytest.raises(DataError, match="frame 1: expected an encoded image"):
        gearbox.infer([encode(photo, "jpeg:quality=10"), truncated])


def test_a_gearbox_without_a_problem_runs_tensors_only(tiny: nn.Module) -> None:
    gearbox = GearBox(tiny, [])
    assert gearbox(torch.zeros(1, 3, 8, 8), DistortionLevel()).shape == (1, 9, 8, 8)
    with pytest.raises(DataError, match="expected a gearbox with a problem"):
        gearbox.infer([b""])
    with pytest.raises(DataError, match="expected a gearbox with a problem"):
        gearbox.predict([], [])


def test_odd_sizes_come_back_whole(gearbox: GearBox) -> None:
    image = Image.fromarray(np.zeros((13, 21, 3), np.uint8))
    assert gearbox.infer([encode(image, "jpeg:quality=10")])[0].prediction.shape == (13, 21)


def test_a_gearbox_senses_by_the_calibration_of_its_adaptors(tiny: nn.Module, problem: SemanticSegmentation) -> None:
    def calibrated(level: str) -> Adaptor:
        scenes = {at: DistortedDataset(STREETS, DistortionLevel.parse(at)) for at in ("pristine", level)}
        found = [c for frames in scenes.values() for c in calibrate(frames, ["brightness", "resolution"])]
        kinds = needs_calibration(DistortionLevel.parse(level))
        return replace(make_adaptor(tiny, level, ["bn"]), calibration=tuple(c for c in found if c.kind in kinds))

    dark = GearBox(tiny, [calibrated("brightness:factor=0.1"), calibrated("brightness:factor=3")], problem)
    photo = Streets("val", 1, 0, Camera(size=(96, 64))).frame(0)
    for level in ("brightness:factor=0.1", "brightness:factor=3"):
        answer = dark.infer([encode(photo, level)])[0]
        assert (str(answer.sensed), str(answer.used)) == (level, level)
    assert str(dark.infer([encode(photo, "pristine")])[0].used) == "brightness:factor=1"
    small = GearBox(tiny, [calibrated("resolution:scale=0.5+jpeg:quality=20")], problem)
    answer = small.infer([encode(photo, "resolution:scale=0.5+jpeg:quality=25")])[0]
    assert str(answer.sensed) == "resolution:scale=0.5+jpeg:quality=25"
    assert str(answer.used) == "resolution:scale=0.5+jpeg:quality=20"
    assert answer.prediction.shape == (32, 48)


def test_clips_are_frames_too(tiny: nn.Module, problem: SemanticSegmentation, photo: Image.Image) -> None:
    gearbox = GearBox(tiny, [make_adaptor(tiny, "h264:crf=30", ["bn"])], problem)
    answers = gearbox.infer([encode(photo, "h264:crf=33"), encode(photo, "h264:crf=5")])
    assert [str(a.used) for a in answers] == ["h264:crf=30", "pristine"]
    assert answers[0].prediction.shape == (photo.height, photo.width)


def test_a_gearbox_of_every_kind_tells_scaled_streams_from_compressed_ones(
    tiny: nn.Module, problem: SemanticSegmentation
) -> None:
    """Scaled frames are encoded at CRF 18, which the H.264 sensor reads as well; it is no distortion of its own."""
    levels = ["resolution:scale=0.5", "h264:crf=18", "h264:crf=36", "brightness:factor=0.1", "jpeg:quality=10"]
    undistorted = calibrate(DistortedDataset(STREETS, DistortionLevel()), ["brightness", "resolution"])
    adaptors = []
    for level in levels:
        kinds = needs_calibration(DistortionLevel.parse(level))
        own = calibrate(DistortedDataset(STREETS, DistortionLevel.parse(level)), kinds)
        calibration = (*own, *(c for c in undistorted if c.kind in kinds))
        adaptors.append(replace(make_adaptor(tiny, level, ["bn"]), calibration=calibration))
    gearbox = GearBox(tiny, adaptors, problem)
    photo = Streets("val", 1, 0, Camera(size=(96, 64))).frame(0)
    for level in levels:
        answer = gearbox.infer([encode(photo, level)])[0]
        assert (str(answer.sensed), str(answer.used)) == (level, level)
    stripped = strip(encode(photo, "resolution:scale=0.5"))
    assert str(gearbox.infer([stripped])[0].used) == "resolution:scale=0.5"
    both = encode(photo, "resolution:scale=0.5+h264:crf=36")
    with pytest.raises(SenseError, match=r"it looks like resolution:scale=0.5 and h264:crf=36; choose a kind"):
        gearbox.infer([both], policy=Policy(off_map="error"))
    assert str(gearbox.infer([both], policy=Policy(off_map="base"))[0].used) == "pristine"
    answer = gearbox.infer([both])[0]  # 36 of 51 CRF are farther than one of four octaves
    assert (str(answer.used), answer.off_map) == ("h264:crf=36", "several distortions")


def test_neighbours_of_a_combination_weigh_every_kind_by_its_range(tiny: nn.Module) -> None:
    levels = ["resolution:scale=0.25+jpeg:quality=40", "resolution:scale=0.5+jpeg:quality=30"]
    gearbox = GearBox(tiny, [make_adaptor(tiny, level, ["bn"]) for level in levels])
    assert str(gearbox.nearest("resolution:scale=0.5+jpeg:quality=38")) == levels[1]
    assert str(gearbox.nearest("resolution:scale=0.3+jpeg:quality=32")) == levels[0]
    assert str(gearbox.nearest("resolution:scale=0.95+jpeg:quality=95")) == "pristine"


def test_a_hint_that_contradicts_the_bytes_is_an_error_that_trust_overrides(
    gearbox: GearBox, photo: Image.Image
) -> None:
    data = encode(photo, "jpeg:quality=10")
    with pytest.raises(SenseError, match="frame 1: expected a frame of jpeg:quality=30, as the hint says"):
        gearbox.infer([data, data], level=[None, "jpeg:quality=30"])
    trusted = gearbox.infer([data], level="jpeg:quality=30", trust_level=True)[0]
    assert str(trusted.used) == "jpeg:quality=30"


def test_arrays_and_images_run_with_a_hint(gearbox: GearBox, photo: Image.Image) -> None:
    data = encode(photo, "jpeg:quality=10")
    expected = gearbox.infer([data])[0].prediction
    for frame in (decode(data), np.asarray(decode(data))):
        assert torch.equal(gearbox.infer([frame], level="jpeg:quality=10")[0].prediction, expected)
        with pytest.raises(SenseError, match="give the level instead"):
            gearbox.infer([frame])
    for wrong in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(DataError, match=r"frame 0: expected a frame uint8 \[H, W, 3\] in RGB"):
            gearbox.infer([wrong], level="pristine")


def test_as_many_hints_as_frames(gearbox: GearBox, photo: Image.Image) -> None:
    with pytest.raises(GearError, match="expected one level for all frames or one for each of 1, but got 2"):
        gearbox.infer([encode(photo, "jpeg:quality=10")], level=["pristine", "pristine"])
    with pytest.raises(GearError, match="level: expected a level, or one for each frame, but got int"):
        gearbox.infer([encode(photo, "jpeg:quality=10")], level=5)  # type: ignore[arg-type]


@pytest.mark.parametrize("hold", ["views", "in_place"])
def test_frames_of_many_sizes_and_levels_come_back_in_order(
    tiny: nn.Module, problem: SemanticSegmentation, photo: Image.Image, hold: Hold
) -> None:
    adaptors = [make_adaptor(tiny, LEVELS[0], ["bn"]), make_adaptor(tiny, LEVELS[1], ["bn", "head"])]
    gearbox = GearBox(tiny, adaptors, problem, hold=hold, batch_size=4)
    sizes, qualities = [(48, 32), (40, 24), (16, 16)], [8, 95, 33, 12, 100, 30]
    frames = [encode(photo.resize(sizes[i % 3]), f"jpeg:quality={qualities[i % 6]}") for i in range(24)]
    answers = gearbox.infer(frames)
    for data, answer in zip(frames, answers, strict=True):
        assert answer.prediction.shape == decode(data).size[::-1]
        assert torch.equal(answer.prediction, gearbox.infer([data])[0].prediction)
    assert {str(a.used) for a in answers} == {*LEVELS, "pristine", "jpeg:quality=100"}


def test_a_frame_that_cannot_be_used_does_not_hold_up_the_others(gearbox: GearBox, photo: Image.Image) -> None:
    good = encode(photo, "jpeg:quality=10")
    answers = gearbox.answers([good, b"no image", good[:900], good, np.zeros((2, 2), np.uint8)])
    assert [type(answer).__name__ for answer in answers] == [
        "Inference",
        "SenseError",
        "DataError",
        "Inference",
        "DataError",
    ]
    assert str(answers[2]).startswith("frame 2: expected an encoded image")


def test_pil_images_and_hints_that_cannot_be_used_do_not_hold_up_the_others(
    gearbox: GearBox, photo: Image.Image
) -> None:
    data = encode(photo, LEVELS[0])
    cut = Image.open(io.BytesIO(data[: len(data) // 2]))
    answers = gearbox.answers([decode(data), cut, Image.new("La", (4, 4)), data], level=LEVELS[0])
    assert [type(answer).__name__ for answer in answers] == ["Inference", "DataError", "DataError", "Inference"]
    assert str(answers[1]).startswith(
        "frame 1: expected a readable frame, but a PIL image of mode RGB gave: image file"
    )
    hints: list[Any] = [LEVELS[0], 5, None, ["jpeg"]]
    answers = gearbox.answers([data] * 4, level=hints)
    assert [type(answer).__name__ for answer in answers] == ["Inference", "LevelError", "Inference", "LevelError"]
    assert str(answers[1]) == "frame 1: level: expected a distortion level or its text, but got int 5"


def test_a_frame_that_cannot_be_decoded_does_not_shift_a_stream(gearbox: GearBox, photo: Image.Image) -> None:
    good, far = encode(photo, "jpeg:quality=10"), encode(photo, "jpeg:quality=95")
    answers = gearbox.answers([good, far[:900], encode(photo, "jpeg:quality=21")], steady=Steady())
    assert isinstance(answers[1], DataError)
    assert isinstance(answers[2], Inference)
    assert str(answers[2].used) == "jpeg:quality=10"


def test_a_frame_that_spoils_its_batch_is_the_only_one_without_an_answer(
    tiny: nn.Module, problem: SemanticSegmentation, photo: Image.Image
) -> None:
    class Picky(SemanticSegmentation):
        def collate(self, samples: Sequence[Sample]) -> Batch:
            if any(sample.image.getpixel((0, 0)) == (1, 2, 3) for sample in samples):
                raise RuntimeError("this one I do not take")
            return super().collate(samples)

    gearbox = GearBox(tiny, [make_adaptor(tiny, level, ["bn", "head"]) for level in LEVELS], Picky(**asdict(problem)))
    frames = [decode(encode(photo, level)) for level in LEVELS]
    frames.insert(1, Image.new("RGB", photo.size, (1, 2, 3)))
    answers = gearbox.answers(frames, level=[LEVELS[0], LEVELS[0], LEVELS[1]])
    assert isinstance(answers[1], DataError)
    assert str(answers[1]).endswith(": this one I do not take")
    for index in (0, 2):
        answer = answers[index]
        assert isinstance(answer, Inference)
        alone = gearbox.infer([frames[index]], level=answer.used)[0]
        assert torch.equal(answer.prediction, alone.prediction)


def test_a_problem_that_predicts_for_fewer_frames_is_an_error_not_another_frames_answer(
    tiny: nn.Module, problem: SemanticSegmentation, photo: Image.Image
) -> None:
    class Short(SemanticSegmentation):
        def predict(self, model: nn.Module, batch: Batch) -> list[torch.Tensor]:
            return super().predict(model, batch)[1:]

    answers = GearBox(tiny, [], Short(**asdict(problem))).answers([photo, photo], level="pristine")
    assert [str(answer) for answer in answers] == [
        f"frame {index}: expected 1 predictions from the problem, one a frame, but got 0" for index in range(2)
    ]


def test_a_network_that_mixes_its_frames_answers_batches_of_several_levels(
    problem: SemanticSegmentation, photo: Image.Image
) -> None:
    class Beside(TinyNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = super().forward(x)
            return 1.3 * y - y.mean(0, keepdim=True)

    torch.manual_seed(0)
    base = Beside().eval()
    gearbox = GearBox(base, [make_adaptor(base, level, ["bn", "head"]) for level in LEVELS], problem)
    frames = [encode(photo, level) for level in LEVELS]
    for frame, answer in zip(frames, gearbox.answers(frames), strict=True):
        assert isinstance(answer, Inference)
        assert torch.equal(answer.prediction, gearbox.infer([frame])[0].prediction)


def test_a_size_that_the_network_cannot_take_is_named(problem: SemanticSegmentation, photo: Image.Image) -> None:
    class Valid(TinyNet):
        def __init__(self) -> None:
            super().__init__()
            self.fixed = nn.Conv2d(4, 4, 17)

    box = GearBox(Valid().eval(), [], problem)
    small, large = photo.resize((8, 8)), photo.resize((64, 64))
    answers = box.answers([small, large], level="pristine")
    assert isinstance(answers[0], DataError)
    assert str(answers[0]).startswith("frame 0: the network cannot take a frame of 8x8: ")
    assert isinstance(answers[1], PlanError)  # it runs, but does not give logits for every pixel


def test_jitter_is_held_within_a_stream(gearbox: GearBox, photo: Image.Image) -> None:
    frames = [encode(photo, f"jpeg:quality={quality}") for quality in (18, 22, 18, 23, 29)]
    assert [str(a.used) for a in gearbox.infer(frames)] == [*LEVELS, LEVELS[0], LEVELS[1], LEVELS[1]]
    assert [str(a.used) for a in gearbox.infer(frames, steady=Steady())] == [*[LEVELS[0]] * 4, LEVELS[1]]


@pytest.mark.parametrize("hold", ["views", "in_place"])
def test_memory_says_what_is_there(tiny: nn.Module, problem: SemanticSegmentation, hold: Hold) -> None:
    adaptors = [make_adaptor(tiny, LEVELS[0], ["bn"]), make_adaptor(tiny, LEVELS[1], ["bn", "head"])]
    gearbox = GearBox(tiny, adaptors, problem, hold=hold)
    rows = {row.name: row for row in gearbox.memory()}
    size = sum(t.numel() * t.element_size() for t in (*tiny.parameters(), *tiny.buffers()))
    assert (rows["base"].resident, rows["base"].disk) == (size, None)
    assert [rows[level].values for level in LEVELS] == [8, 8 + 45]
    assert [rows[level].disk for level in LEVELS] == [len(adaptor.to_bytes()) for adaptor in adaptors]
    if hold == "views":
        assert [rows[level].resident for level in LEVELS] == [4 * 8, 4 * (8 + 45)]
        assert "shared" not in rows
    networks = [gearbox.base, *gearbox.gears.networks()]
    tensors = [t for network in networks for t in (*network.parameters(), *network.buffers())]
    slabs = [t for level in gearbox.levels for t in gearbox.gears.own_tensors(level)]
    if isinstance(gearbox.gears, InPlace):
        slabs += [t for targets, sources in gearbox.gears._copies.values() for t in (*targets, *sources)]
    distinct = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in (*tensors, *slabs)}
    assert rows["in all"].resident == sum(distinct.values())


def test_switches_and_mixed_inferences_by_the_thousand_change_nothing(
    tiny: nn.Module, problem: SemanticSegmentation, photo: Image.Image
) -> None:
    """The soak of `make bench` in small: a million switches and ten thousand mixed inferences there."""
    adaptors = [make_adaptor(tiny, LEVELS[0], ["bn"]), make_adaptor(tiny, LEVELS[1], ["bn", "head"])]
    frames = [encode(photo.resize((24, 16)), f"jpeg:quality={quality}") for quality in (8, 95, 33, 12)]
    for hold in HOLDS:
        box = GearBox(tiny, adaptors, problem, hold=hold)
        x = torch.randn(1, 3, 8, 8)
        before = [box(x, level) for level in (*LEVELS, "pristine")]
        first = box.infer(frames)
        for _ in range(1000):
            for level in (*LEVELS, "pristine"):
                with box.at(level):
                    pass
        for _ in range(100):
            for one, other in zip(first, box.infer(frames), strict=True):
                assert torch.equal(one.prediction, other.prediction)
        assert all(torch.equal(b, box(x, lv)) for b, lv in zip(before, (*LEVELS, "pristine"), strict=True))


def test_eight_threads_give_what_one_gives(tiny: nn.Module, problem: SemanticSegmentation, photo: Image.Image) -> None:
    adaptors = [make_adaptor(tiny, LEVELS[0], ["bn"]), make_adaptor(tiny, LEVELS[1], ["bn", "head"])]
    frames = [encode(photo.resize((24, 16)), f"jpeg:quality={quality}") for quality in (8, 95, 33, 12, 100, 31, 5, 60)]
    for hold in HOLDS:
        box = GearBox(tiny, adaptors, problem, hold=hold)
        expected = [answer.prediction for answer in box.infer(frames)]
        with ThreadPoolExecutor(8) as pool:
            runs = list(pool.map(box.infer, [[frames[i % 8]] for i in range(160)]))
        assert all(torch.equal(found[0].prediction, expected[i % 8]) for i, found in enumerate(runs))
