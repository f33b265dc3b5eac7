import pytest
from torch import nn

from gearnn.gearbox import GearBox
from gearnn.problems.segmentation import SemanticSegmentation
from tests.shared.adaptors import make_adaptor


@pytest.fixture
def gearbox(tiny: nn.Module, problem: SemanticSegmentation) -> GearBox:
    names = {
        "jpeg:quality=10": ["bn"],
        "jpeg:quality=30": ["bn", "head"],
        "h264:crf=20": ["bn"],
        "h264:crf=36": ["head"],
    }
    return GearBox(tiny, [make_adaptor(tiny, level, layers) for level, layers in names.items()], problem)
