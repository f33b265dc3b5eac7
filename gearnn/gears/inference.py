"""Frames through a gearbox: sense every level, choose the gears, run frames of one size together."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import inference_mode, nn

from gearnn.datasets.frames import Sample
from gearnn.distortions import Received, Sensed, Sensor
from gearnn.errors import DataError, GearError, GearNNError, LevelError
from gearnn.gears.choice import Choice, Policy, Steady, check_hint, choose, sense_or_reason
from gearnn.levels import DistortionLevel
from gearnn.machine.compute import Compute
from gearnn.problems.problem import Problem

Frame = bytes | np.ndarray | Image.Image
"""An encoded image or clip; or a decoded frame: uint8 [H, W, 3] RGB, or a PIL image."""

Hint = DistortionLevel | str | None


@dataclass(frozen=True, kw_only=True)
class Inference(Choice):
    """The answer to one frame, with the gear that gave it.

    Attributes:
        prediction: what the problem predicts; for segmentation classes, int64 [H, W].
    """

    prediction: Any


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What runs frames through gears: senses each one's level, chooses its gear, and predicts.

    Attributes:
        sensor: of the levels.
        levels: those that have an adaptor.
        network_for: the network for a batch whose frames have these levels.
        problem: batching and prediction.
        compute: device and precision.
        most_frames: of one forward pass.
    """

    sensor: Sensor
    levels: Sequence[DistortionLevel]
    network_for: Callable[[Sequence[DistortionLevel]], nn.Module]
    problem: Problem
    compute: Compute
    most_frames: int

    def answers(
        self,
        frames: Sequence[Frame],
        hints: Sequence[Hint],
        *,
        trust_hint: bool,
        policy: Policy,
        steady: Steady | None,
    ) -> list[Inference | GearNNError]:
        """One answer a frame in order, or why there is none.

        Args:
            frames: in whatever form.
            hints: one a frame, see :func:`hints_for`.
            trust_hint: take hints even where the bytes say another level.
            policy: what happens to frames off the map.
            steady: the hysteresis of the stream that the frames belong to.
        """
        answers: list[Inference | GearNNError | None] = [None] * len(frames)
        ready: list[tuple[int, Choice, Sample]] = []
        for index, (frame, hint) in enumerate(zip(frames, hints, strict=True)):
            try:
                received = as_received(frame)
                choice = self.choose(received, hint, trust_hint=trust_hint, policy=policy)
                sample = Sample(image=received.image, target=None, name=str(index))
                choice = choice if steady is None else steady(choice)  # not moved by a frame that cannot be decoded
                ready.append((index, choice, sample))
            except GearNNError as error:
                answers[index] = named(error, index)
        samples, levels = [sample for *_, sample in ready], [choice.used for _, choice, _ in ready]
        for (index, choice, _), found in zip(ready, self.predict(samples, levels), strict=True):
            failed = isinstance(found, GearNNError)
            answers[index] = named(found, index) if failed else Inference(prediction=found, **vars(choice))
        return [answer for answer in answers if answer is not None]

    def choose(self, received: Received, hint: Hint = None, *, trust_hint: bool = False, policy: Policy) -> Choice:
        """The gear for one frame.

        Raises:
            SenseError: its level cannot be sensed and was not given, or not as surely as the policy wants, or
                its bytes contradict the hint.
            LevelError: the hint is no level.
            GearError: no gear that the policy allows.
        """
        if not isinstance(hint, DistortionLevel | str | None):
            raise LevelError(
                f"level: expected a distortion level or its text, but got {type(hint).__name__} {hint!r:.100}"
            )
        if hint is None:
            return choose(sense_or_reason(self.sensor, received, closely=policy.closely), self.levels, policy)
        told = DistortionLevel.parse(hint)
        if not trust_hint:
            check_hint(told, received, self.levels)
        return choose(Sensed(told, 0.0), self.levels, policy)

    @inference_mode()
    def predict(self, samples: Sequence[Sample], levels: Sequence[DistortionLevel]) -> list[Any]:
        """Predictions of decoded frames in order, each with its own level's gear; or the errors of those without.

        Frames of one size run together, up to ``most_frames``, whatever their levels. Frames of a
        batch that fails run one by one, so that each gets its own answer or error.

        Args:
            samples: frames of any sizes; those with a target are predicted at the target's size.
            levels: supported ones, or pristine; one a frame.
        """
        found: list[Any] = [None] * len(samples)
        for indices in _batches(samples, self.most_frames):
            predictions = self._of_batch([samples[i] for i in indices], [levels[i] for i in indices])
            for index, prediction in zip(indices, predictions, strict=True):
                found[index] = prediction
        return found

    def _of_batch(self, samples: Sequence[Sample], levels: Sequence[DistortionLevel]) -> list[Any]:
        """Predictions of one batch, with an error for each frame that has none even by itself."""
        try:
            return self._together(samples, levels)
        except GearNNError as error:
            if len(samples) == 1:
                return [error]
        alone = [self._of_batch([sample], [level]) for sample, level in zip(samples, levels, strict=True)]
        return [answer for answers in alone for answer in answers]

    def _together(self, samples: Sequence[Sample], levels: Sequence[DistortionLevel]) -> list[Any]:
        """Predictions of one batch.

        Raises:
            DataError: the network cannot take a frame of this size, or the problem gives another number of them.
        """
        network = self.network_for(levels)
        try:
            batch = self.problem.to(self.problem.collate(samples), self.compute)
            with self.compute.autocast():
                predictions = self.problem.predict(network, batch)
        except GearNNError:
            raise
        except Exception as error:  # what a network says to a frame too small for it, or a device to one too large
            width, height = samples[0].image.size
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"the network cannot take a frame of {width}x{height}: {reason}") from error
        if len(predictions) != len(samples):
            raise DataError(
                f"expected {len(samples)} predictions from the problem, one a frame, but got {len(predictions)}"
            )
        return predictions


def hints_for(frames: Sequence[Frame], level: Hint | Sequence[Hint]) -> Sequence[Hint]:
    """One hint a frame, of one for all or one for each.

    Raises:
        GearError: neither.
    """
    if level is None or isinstance(level, DistortionLevel | str):
        return [level] * len(frames)
    if not isinstance(level, Sequence):
        raise GearError(f"level: expected a level, or one for each frame, but got {type(level).__name__}")
    if len(level) != len(frames):
        raise GearError(f"expected one level for all frames or one for each of {len(frames)}, but got {len(level)}")
    return level


def as_received(frame: Frame) -> Received:
    """A frame in whatever form.

    Raises:
        DataError: an array of another shape or type.
    """
    if isinstance(frame, bytes):
        return Received(frame)
    if isinstance(frame, Image.Image):
        return Received.of_image(frame)
    if not isinstance(frame, np.ndarray):
        raise DataError(f"expected encoded bytes, an array or a PIL image, but got {type(frame).__name__}")
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise DataError(f"expected a frame uint8 [H, W, 3] in RGB, but got {frame.dtype} {list(frame.shape)}")
    return Received.of_image(Image.fromarray(frame))


def named(error: GearNNError, index: int) -> GearNNError:
    """The same error, with the frame that it is about."""
    copy = type(error).__new__(type(error), f"frame {index}: {error}")
    copy.__dict__.update(error.__dict__)
    copy.__cause__ = error.__cause__ or error
    return copy


def _batches(samples: Sequence[Sample], most: int) -> Iterator[list[int]]:
    """Indices of frames that run together."""
    by_size: dict[Any, list[int]] = {}
    for index, sample in enumerate(samples):
        by_size.setdefault((sample.image.size, getattr(sample.target, "shape", sample.target is None)), []).append(
            index
        )
    for indices in by_size.values():
        for start in range(0, len(indices), most):
            yield indices[start : start + most]
