"""Bases and adaptors as MLflow serves them: encoded images in, predictions out.

Loading runs no pickled code, and code that a base names only from packages in ``GEARNN_TRUST``.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from gearnn.adaptor import Adaptor
from gearnn.description import DESCRIPTION_FILE, open_description
from gearnn.gearbox import GearBox
from gearnn.levels import DistortionLevel
from gearnn.problem import restore_problem
from gearnn.registry import ADAPTOR_FILE, BASE_FILE, IMAGE_COLUMN, load_base


def _load_pyfunc(data_path: str) -> "Predictor":
    """What MLflow calls to load a base or an adaptor as a pyfunc."""
    folder = Path(data_path)
    description = json.loads((folder / DESCRIPTION_FILE).read_text())
    if (folder / ADAPTOR_FILE).is_file():
        adaptor = Adaptor.load(folder / ADAPTOR_FILE)
        name, version = description["base_uri"].removeprefix("models:/").split("/")
        base, problem, _ = load_base(name, version)
        return Predictor(GearBox(base, [adaptor], problem), adaptor.level)
    facts = open_description(folder)
    base = facts.build(folder / BASE_FILE)
    return Predictor(GearBox(base, [], restore_problem(facts.problem)), DistortionLevel())


class Predictor:
    """A base or an adaptor as MLflow runs it: encoded images in, one prediction a frame out."""

    def __init__(self, gearbox: GearBox, level: DistortionLevel) -> None:
        self.gearbox, self.level = gearbox, level

    def predict(self, model_input: pd.DataFrame | Sequence[bytes], params: object = None) -> list[Any]:
        """Predictions of encoded images, at this model's own level.

        Args:
            model_input: a column ``image`` with the bytes of image files, or a list of them.
            params: not used; MLflow passes it.
        """
        frames: Iterable[bytes] = model_input[IMAGE_COLUMN] if isinstance(model_input, pd.DataFrame) else model_input
        answers = self.gearbox.infer([bytes(frame) for frame in frames], level=self.level)
        return [self._plain(answer.prediction) for answer in answers]

    def _plain(self, prediction: Any) -> Any:
        """A mask as an array; where there are facts too, a dictionary of both."""
        assert self.gearbox.problem is not None, "a registered base has one"
        answer = self.gearbox.problem.answer(prediction)
        if not answer.facts:
            return answer.text if answer.mask is None else answer.mask
        return dict(answer.facts) if answer.mask is None else {"mask": answer.mask, **answer.facts}
