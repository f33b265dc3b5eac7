"""Bases, adaptors and gearboxes as MLflow serves them: encoded images in, predictions out.

Loading runs no pickled code, and code that a base names only from packages in ``GEARNN_TRUST``; and no file
is used that is not as it was registered, see :mod:`gearnn.registry.unaltered`.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from gearnn.adaptor import Adaptor
from gearnn.errors import GearNNError
from gearnn.gearbox import GearBox, Inference
from gearnn.gears.choice import Policy
from gearnn.levels import DistortionLevel
from gearnn.machine.compute import Compute
from gearnn.registry.description import open_description
from gearnn.registry.loading import load_base
from gearnn.registry.names import TAG_BASE_URI, TAG_KIND
from gearnn.registry.unaltered import check_files, check_weights, facts_beside
from gearnn.registry.versions import ADAPTOR_FILE, ADAPTORS_FOLDER, BASE_FILE, IMAGE_COLUMN


def _load_pyfunc(data_path: str) -> "Predictor":
    """What MLflow calls to load a base, an adaptor or a gearbox as a pyfunc; on a GPU where there is one.

    Raises:
        RegistryError: a file is not as it was registered, or a base names code that is not trusted.
    """
    folder, compute = Path(data_path), Compute.resolve("auto", "fp32")
    tags = facts_beside(folder)
    check_files(folder, tags, str(folder))
    if tags[TAG_KIND] == "adaptor":
        adaptor = Adaptor.load(folder / ADAPTOR_FILE)
        name, _, version = str(tags[TAG_BASE_URI]).removeprefix("models:/").rpartition("/")
        base, problem, _ = load_base(name, version)
        return Predictor(GearBox(compute.place(base), [adaptor], problem, compute=compute), adaptor.level)
    facts = open_description(folder)
    base = facts.build(folder / BASE_FILE)
    check_weights(base, tags, str(folder))
    paths = sorted((folder / ADAPTORS_FOLDER).glob("*.safetensors"))
    gearbox = GearBox(compute.place(base), map(Adaptor.load, paths), facts.restore_problem(), compute=compute)
    return Predictor(gearbox, None if paths else DistortionLevel())


class Predictor:
    """A base, an adaptor or a gearbox as MLflow runs it: encoded images in, one answer a frame out.

    Args:
        gearbox: with a problem.
        level: at which every frame runs; None senses each frame's own.
    """

    def __init__(self, gearbox: GearBox, level: DistortionLevel | None) -> None:
        self.gearbox, self.level = gearbox, level

    def predict(
        self, model_input: pd.DataFrame | Sequence[bytes], params: Mapping[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Answers for encoded images; a row that cannot be used has an ``error`` instead.

        Args:
            model_input: a column ``image`` with the bytes of image files, or a list of them. Rows are checked one by
                one, and what is missing, text or a number is an error of its own row.
            params: of a gearbox: ``level`` is the level of all images where their bytes do not say it;
                ``off_map`` is what :class:`gearnn.gears.choice.Policy` takes. Empty texts count as absent.

        Returns:
            A dictionary a frame: ``level``, whose gear ran; ``sensed``; ``distance`` between the two;
            ``misfit`` of the frame to the level sensed; ``off_map``, why the frame is off the map;
            ``note``, what else was found out about it; ``mask``, a PNG file (over HTTP in base64), where
            the problem has masks; and the problem's facts, such as ``objects``.
        """
        frames: Iterable[Any] = model_input[IMAGE_COLUMN] if isinstance(model_input, pd.DataFrame) else model_input
        told = {name: value for name, value in (params or {}).items() if value}
        answers = self.gearbox.answers(
            [bytes(frame) if isinstance(frame, bytearray | memoryview) else frame for frame in frames],
            level=told.get("level") if self.level is None else self.level,
            trust_level=self.level is not None,
            policy=Policy(off_map=told.get("off_map", "nearest")),
        )
        return [self._plain(answer) for answer in answers]

    def _plain(self, answer: Inference | GearNNError) -> dict[str, Any]:
        if isinstance(answer, GearNNError):
            return {"error": str(answer)}
        found = self.gearbox.known_problem.answer(answer.prediction)
        plain = {
            "level": str(answer.used),
            "sensed": None if answer.sensed is None else str(answer.sensed),
            "distance": answer.distance,
            "misfit": answer.misfit,
            "off_map": answer.off_map,
            "note": answer.note,
            **found.facts,
        }
        if found.mask is not None:
            plain["mask"] = _as_png(found.mask)
        return plain if found.mask is not None or found.facts else plain | {"answer": found.text}


def _as_png(mask: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(mask).save(content, format="PNG")
    return content.getvalue()
