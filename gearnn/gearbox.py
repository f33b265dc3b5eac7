"""The online part (section 3.3): one base in memory, every level's adaptor beside it.

For every level the gearbox holds a module tree that shares the base's tensors and owns only its
adaptor's, so that shifting is choosing an object, and threads may run different levels at once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, inference_mode, nn

from gearnn.adaptor import Adaptor
from gearnn.compute import Compute
from gearnn.datasets.frames import Sample
from gearnn.distortions import decode, distance, sense, strength
from gearnn.errors import DataError, GearError
from gearnn.layers import fingerprint
from gearnn.levels import DistortionLevel
from gearnn.problem import Problem


@dataclass(frozen=True, kw_only=True)
class Inference:
    """The answer to one frame.

    Attributes:
        prediction: what the problem predicts; for segmentation classes, int64 [H, W].
        sensed: level read from the input.
        used: the supported level whose gear ran.
        misfit: how far the input was from the level sensed, in the kind's unit.
    """

    prediction: Any
    sensed: DistortionLevel
    used: DistortionLevel
    misfit: float


class GearBox:
    """One base and its adaptors; keeps no state between calls.

    Args:
        base: the pre-trained network; put into evaluation mode. It runs at pristine levels itself.
        adaptors: at most one a level, all of this base.
        problem: batching and prediction, needed by :meth:`infer`.

    Raises:
        AdaptorError: an adaptor belongs to another base.
        GearError: two adaptors are for one level.
    """

    def __init__(self, base: nn.Module, adaptors: Iterable[Adaptor], problem: Problem | None = None) -> None:
        self.base = base.eval()
        self.problem = problem
        self._gears: dict[DistortionLevel, nn.Module] = {}
        base_fingerprint = fingerprint(base)
        for adaptor in adaptors:
            if adaptor.level in self._gears:
                raise GearError(f"expected one adaptor for {adaptor.level}, but got two")
            self._gears[adaptor.level] = adaptor.apply(self.base, base_fingerprint)

    @classmethod
    def from_registry(
        cls, base: str, distortion: str | None = None, alias: str = "champion", problem: Problem | None = None
    ) -> "GearBox":
        """Load a base and its adaptors from the MLflow model registry.

        Args:
            base: name of the registered base.
            distortion: kind, such as ``jpeg``; None takes adaptors of every kind.
            alias: which version of each adaptor.
            problem: batching and prediction; None takes what was registered with the base.

        Raises:
            RegistryError: no such base, no adaptor of this kind, or one without that alias.
            AdaptorError: a version's bytes do not belong to the base.
        """
        from gearnn import registry

        return registry.load_gearbox(base, distortion, alias, problem)

    @property
    def levels(self) -> tuple[DistortionLevel, ...]:
        """Levels that have an adaptor."""
        return tuple(self._gears)

    def model(self, level: DistortionLevel | str) -> nn.Module:
        """The network of one level; at a pristine level the base itself.

        Raises:
            GearError: this gearbox has no adaptor for the level.
        """
        level = DistortionLevel.parse(level)
        if level in self._gears:
            return self._gears[level]
        if level.is_pristine:
            return self.base
        have = ", ".join(str(gear) for gear in self._gears) or "none"
        raise GearError(f"no adaptor for {level}; this gearbox has {have}; nearest(level) finds the one to use")

    def nearest(self, level: DistortionLevel | str) -> DistortionLevel:
        """The supported level next to this one, the base's pristine level included; ties go to the stronger distortion.

        Raises:
            GearError: there is no adaptor of this kind.
        """
        level = DistortionLevel.parse(level)
        if not level.parts:
            return level
        supported = [gear for gear in self._gears if gear.kind == level.kind]
        if not supported:
            kinds = ", ".join(sorted({gear.kind for gear in self._gears})) or "none"
            raise GearError(f"no adaptor for the distortion {level.kind}; this gearbox has {kinds}")
        candidates = [DistortionLevel(), *supported]
        found = min(candidates, key=lambda c: (distance(level, c), -strength(c) if c.parts else float("inf")))
        return level if not found.parts and level.is_pristine else found

    @inference_mode()
    def __call__(self, x: Tensor, level: DistortionLevel | str) -> Any:
        """One forward pass with the network of a level; x as the network takes it."""
        return self.model(level)(x)

    def infer(self, frames: Sequence[bytes], *, level: DistortionLevel | str | None = None) -> list[Inference]:
        """Sense the level of every encoded frame, and run each with the gear that fits.

        Args:
            frames: encoded images, such as the contents of JPEG files.
            level: tells the level where the bytes do not, for all frames.

        Returns:
            One answer a frame, in order.

        Raises:
            SenseError: a frame's level cannot be sensed and was not told.
            DataError: the bytes are no image; or this gearbox was built without a problem.
            GearError: there is no adaptor of the sensed kind.
        """
        if self.problem is None:
            raise DataError("expected a gearbox with a problem, because frames must be decoded and normalised")
        told = None if level is None else DistortionLevel.parse(level)
        return [self._infer_one(data, index, told, self.problem) for index, data in enumerate(frames)]

    @inference_mode()
    def _infer_one(self, data: bytes, index: int, told: DistortionLevel | None, problem: Problem) -> Inference:
        sensed, misfit = told, 0.0
        if sensed is None:
            answer = sense(data)
            sensed, misfit = answer.level, answer.misfit
        used = self.nearest(sensed)
        try:
            image = decode(data)
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"frame {index}: expected an encoded image, but got: {error}") from error
        device = next(self.base.parameters()).device
        compute = Compute(device=device, bf16=False)
        batch = problem.to(problem.collate([Sample(image=image, target=None, name=str(index))]), compute)
        prediction = problem.predict(self.model(used), batch)[0]
        return Inference(prediction=prediction, sensed=sensed, used=used, misfit=misfit)
