"""Truth for frames that have none: what the base says of them, undistorted.

Answers are kept beside the distorted frames of a store, each in a file whose name ends with a digest of its bytes.
"""

import hashlib
import io
import json
import logging
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from gearnn.datasets.frames import Around, FrameDataset, Sample
from gearnn.datasets.instances import Instances
from gearnn.errors import PlanError
from gearnn.layers import fingerprint
from gearnn.machine.compute import Compute
from gearnn.problems.problem import Problem, SelfLabelling
from gearnn.store.files import written_whole
from gearnn.store.storage import Store

_DIGITS = 32


class Answering(Protocol):
    """What answers: a plan, opened."""

    @property
    def problem(self) -> Problem:
        """What the base does."""
        ...

    @property
    def compute(self) -> Compute:
        """Device and precision."""
        ...

    @property
    def store(self) -> Store:
        """Where answers are kept."""
        ...

    @property
    def identity(self) -> dict[str, Any]:
        """What decides how the base computes, besides its weights."""
        ...

    @property
    def numerics(self) -> str:
        """Precision and threads, which decide rounding."""
        ...

    def base(self) -> nn.Module:
        """The base."""
        ...


class Answered(Around):
    """Frames with a base's answers as their truth; all else is the dataset's own.

    Args:
        dataset: frames without truth.
        answering: whose base answers.
    """

    truth = "answers"

    def __init__(self, dataset: FrameDataset, answering: Answering) -> None:
        super().__init__(dataset)
        self._answering = answering

    def __getstate__(self) -> dict[str, Any]:
        """Networks stay where they are; a worker that needs one loads it."""
        _ = self._identity  # found once, not in every worker
        return {key: value for key, value in self.__dict__.items() if key != "_network"}

    def target(self, index: int) -> Any:
        """The base's answer on the undistorted frame, in the form of the problem's truth."""
        key = hashlib.sha256(f"{self._identity} {self._dataset.frame_digest(index)}".encode()).hexdigest()
        folder = self._answering.store.root / "answers" / key[:2]
        for path in sorted(folder.glob(f"{key}-*.npz")):
            content = path.read_bytes()
            if path.name == _name(key, content):
                return _read(content)
            logging.getLogger("gearnn").warning("answer %s was altered, and is made anew", path)
            path.unlink(missing_ok=True)
        found = self._answer(index)
        content = _written(found)
        path = Path(folder / _name(key, content))
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as file:
            file.write(content)
        return found

    def digest(self) -> str:
        """sha256 of all that determines frames and answers."""
        return hashlib.sha256(f"{self._dataset.digest()} {self._identity}".encode()).hexdigest()

    @cached_property
    def _network(self) -> nn.Module:
        network = self._answering.base()
        return self._answering.compute.place(network).eval()

    @cached_property
    def _identity(self) -> str:
        answering = self._answering
        facts = [fingerprint(answering.base()), answering.problem.describe(), answering.identity, answering.numerics]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @torch.inference_mode()
    def _answer(self, index: int) -> Any:
        problem, compute = self._answering.problem, self._answering.compute
        if not isinstance(problem, SelfLabelling):
            name = problem.describe().get("name")
            raise PlanError(
                f"plan: data: expected frames with truth, because {name} has no labelled(batch, predictions)"
            )
        sample = Sample(image=self._dataset.frame(index), target=None, name=self._dataset.name(index))
        batch = problem.to(problem.collate([sample]), compute)
        with compute.autocast():
            predictions = problem.predict(self._network, batch)
        truth = problem.truths(problem.labelled(batch, predictions))[0]
        if isinstance(truth, torch.Tensor):
            return truth.cpu().numpy().astype(np.uint8 if len(self.class_names) <= 256 else np.uint16)
        return truth


def _name(key: str, content: bytes) -> str:
    return f"{key}-{hashlib.sha256(key.encode() + content).hexdigest()[:_DIGITS]}.npz"


def _written(truth: Any) -> bytes:
    """A truth as bytes; equal ones give equal bytes only on one version of NumPy, which is all that is needed."""
    arrays: Mapping[str, Any] = {"classes": truth}
    if isinstance(truth, Instances):
        arrays = {"masks": truth.masks, "labels": truth.labels}
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def _read(content: bytes) -> Any:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        if "labels" in arrays:
            return Instances.of(arrays["masks"], arrays["labels"])
        classes = arrays["classes"]
    return int(classes) if classes.ndim == 0 else classes
