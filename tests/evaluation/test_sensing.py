import pytest
import torch
from torch import nn

from gearnn.datasets import Camera, DistortedDataset
from gearnn.datasets.streets import Streets
from gearnn.distortions import encode
from gearnn.errors import DataError
from gearnn.evaluation.sensing import SensingFacts, measure_sensing
from gearnn.gearbox import GearBox
from gearnn.levels import DistortionLevel
from gearnn.problems.segmentation import SemanticSegmentation
from tasks.inspecting.sensing import confusion_cells
from tests.shared.adaptors import make_adaptor

LEVELS = ("jpeg:quality=10", "jpeg:quality=30")


def samples(level: str) -> DistortedDataset:
    return DistortedDataset(Streets("val", 5, 0, Camera(size=(44, 30))), DistortionLevel.parse(level))


class Mislabelled(DistortedDataset):
    """Frames of one level whose bytes say another."""

    def encoded(self, index: int) -> bytes:
        level = "jpeg:quality=30" if index < 3 else "jpeg:quality=10"
        return encode(self.dataset.frame(index), level) if index < 4 else b"no image at all"


@pytest.fixture
def gearbox(tiny: nn.Module, problem: SemanticSegmentation) -> GearBox:
    return GearBox(tiny, [make_adaptor(tiny, LEVELS[0], ["bn"]), make_adaptor(tiny, LEVELS[1], ["head"])], problem)


def test_right_sensing_costs_nothing(gearbox: GearBox) -> None:
    for level in (*LEVELS, "jpeg:quality=100"):
        facts = measure_sensing(gearbox, samples(level))
        assert facts.share_right == 1.0
        assert facts.given == facts.sensed


def test_the_cost_is_the_score_with_the_gears_that_sensing_chose(
    gearbox: GearBox, problem: SemanticSegmentation
) -> None:
    data = Mislabelled(samples(LEVELS[0]).dataset, DistortionLevel.parse(LEVELS[0]))
    true = samples(LEVELS[0])
    frames = [true[i] for i in range(5)]
    data.__class__.__getitem__ = lambda self, index: frames[index]  # type: ignore[method-assign]
    facts = measure_sensing(gearbox, data)
    ten, thirty = (DistortionLevel.parse(level) for level in LEVELS)
    assert facts.used == {thirty: 3, ten: 1, None: 1}
    assert facts.share_right == 0.2
    given, sensed = problem.new_score(), problem.new_score()
    gears = [LEVELS[1]] * 3 + [LEVELS[0], "pristine"]
    with torch.inference_mode():
        for sample, gear in zip(frames, gears, strict=True):
            batch = problem.collate([sample])
            for score, level in ((given, LEVELS[0]), (sensed, gear)):
                score.update(problem.predict(gearbox.model(level), batch)[0], torch.as_tensor(sample.target))
    assert (facts.given, facts.sensed) == pytest.approx((given.primary, sensed.primary))
    heading, line = confusion_cells([facts])
    assert heading == ("true level", "10", "30", "not sensed", "right", "mIoU, gear given", "mIoU, gear sensed", "cost")
    assert line[:5] == ("jpeg:quality=10", "1", "3", "1", "20 %")


def test_a_gearbox_without_a_problem_is_refused(tiny: nn.Module) -> None:
    with pytest.raises(DataError, match="expected a gearbox with a problem"):
        measure_sensing(GearBox(tiny, []), samples("pristine"))


def test_frames_beyond_the_limits_of_their_kinds_are_counted(gearbox: GearBox) -> None:
    class Foreign(DistortedDataset):
        """Frames whose tables are of no quality."""

        def encoded(self, index: int) -> bytes:
            data = bytearray(super().encoded(index))
            at = data.index(b"\xff\xdb") + 5
            data[at : at + 64] = bytes((1, 255) * 32)
            return bytes(data)

    facts: SensingFacts = measure_sensing(
        gearbox, Foreign(samples(LEVELS[0]).dataset, DistortionLevel.parse(LEVELS[0]))
    )
    assert facts.unlike == 5
    heading, line = confusion_cells([facts])
    assert line[heading.index("unlike")] == "5"
    assert "unlike" not in confusion_cells([measure_sensing(gearbox, samples(LEVELS[0]))])[0]
