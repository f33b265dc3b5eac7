"""The online part (section 3.3): one base in memory, every level's adaptor beside it.

For every level the gearbox holds a module tree that shares the base's tensors and owns only its
adaptor's, so that shifting is choosing an object, and threads may run different levels at once.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, inference_mode, nn

from gearnn.adaptor import Adaptor
from gearnn.compute import Compute
from gearnn.datasets.frames import Sample
from gearnn.distortions import Calibration, Received, Sensed, Sensor, nearest
from gearnn.errors import DataError, GearError, SenseError
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
        calibration: list[Calibration] = []
        for adaptor in adaptors:
            if adaptor.level in self._gears:
                raise GearError(f"expected one adaptor for {adaptor.level}, but got two")
            self._gears[adaptor.level] = adaptor.apply(self.base, base_fingerprint)
            calibration += adaptor.calibration
        self._sensor = Sensor(self._gears, calibration)

    @classmethod
    def from_registry(
        cls,
        base: str,
        distortion: str | None = None,
        alias: str = "champion",
        problem: Problem | None = None,
        trust: Collection[str] = (),
    ) -> "GearBox":
        """Load a base and its adaptors from the MLflow model registry.

        Args:
            base: name of the registered base.
            distortion: kind, such as ``jpeg``; None takes adaptors of every kind.
            alias: which version of each adaptor.
            problem: batching and prediction; None takes what was registered with the base.
            trust: packages that a base of a user's own module may import, besides those in the
                environment's ``GEARNN_TRUST``.

        Raises:
            RegistryError: no such base, no adaptor of this kind, one without that alias, or a base that
                names code that is not trusted.
            AdaptorError: a version's bytes do not belong to the base.
        """
        from gearnn import registry

        return registry.load_gearbox(base, distortion, alias, problem, trust=trust)

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
        return nearest(DistortionLevel.parse(level), self._gears)

    def sense(self, data: bytes) -> Sensed:
        """The level of an encoded frame, among the kinds that this gearbox has adaptors for.

        Raises:
            SenseError: it cannot be told.
        """
        return self._sensor(Received(data))

    @inference_mode()
    def __call__(self, x: Tensor, level: DistortionLevel | str) -> Any:
        """One forward pass with the network of a level; x as the network takes it."""
        return self.model(level)(x)

    def infer(self, frames: Sequence[bytes], *, level: DistortionLevel | str | None = None) -> list[Inference]:
        """Sense the level of every encoded frame, and run each with the gear that fits.

        Args:
            frames: encoded images or clips, such as the contents of JPEG files.
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
        received = Received(data)
        try:
            answer = self._sensor(received) if told is None else Sensed(told, 0.0)
            used = self.nearest(answer.level)
            image = received.image
        except (SenseError, DataError) as error:
            raise type(error)(f"frame {index}: {error}") from error
        device = next(self.base.parameters()).device
        compute = Compute(device=device, bf16=False)
        batch = problem.to(problem.collate([Sample(image=image, target=None, name=str(index))]), compute)
        prediction = problem.predict(self.model(used), batch)[0]
        return Inference(prediction=prediction, sensed=answer.level, used=used, misfit=answer.misfit)
