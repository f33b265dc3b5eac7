import base64
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from torch import nn

from gearnn.distortions import encode
from gearnn.gearbox import GearBox
from gearnn.levels import DistortionLevel
from gearnn.problems.segmentation import SemanticSegmentation
from gearnn.registry.serving import Predictor
from tests.shared.adaptors import make_adaptor

TEN = "jpeg:quality=10"


@pytest.fixture
def predictor(tiny: nn.Module, problem: SemanticSegmentation) -> Predictor:
    return Predictor(GearBox(tiny, [make_adaptor(tiny, TEN, ["bn"])], problem), None)


@pytest.mark.parametrize("bad", [None, float("nan"), pd.NA, "text", 5, b"", np.zeros(5, np.uint8)])
@pytest.mark.parametrize("as_frame", [True, False])
def test_a_row_that_is_no_image_has_its_own_error_and_the_others_their_answers(
    predictor: Predictor, photo: Image.Image, bad: Any, as_frame: bool
) -> None:
    rows = [encode(photo, TEN), bad, encode(photo, TEN)]
    first, error, last = predictor.predict(pd.DataFrame({"image": rows}) if as_frame else rows)
    assert (first["level"], last["level"]) == (TEN, TEN)
    assert first["mask"] == last["mask"]
    assert list(error) == ["error"]
    assert error["error"].startswith("frame 1: expected ")


def test_rows_of_text_are_refused_by_a_predictor_of_one_level_too(predictor: Predictor, photo: Image.Image) -> None:
    of_one_level = Predictor(predictor.gearbox, DistortionLevel.parse(TEN))
    data = encode(photo, TEN)
    answers = of_one_level.predict([data, base64.b64encode(data).decode(), bytearray(data), memoryview(data)])
    assert answers[1] == {"error": "frame 1: expected encoded bytes, an array or a PIL image, but got str"}
    assert [answer.get("level") for answer in answers] == [TEN, None, TEN, TEN]
