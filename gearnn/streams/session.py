"""A stream through a gearbox: gears shift at segment boundaries, and what cannot be used is skipped and counted."""

import math
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from PIL import Image

from gearnn.datasets.frames import Sample
from gearnn.distortions import Received
from gearnn.errors import DataError, GearNNError
from gearnn.gearbox import GearBox
from gearnn.gears.choice import Choice, Policy, Steady, gear_of
from gearnn.levels import DistortionLevel
from gearnn.problems.problem import Score
from gearnn.streams.segment import Segment
from gearnn.streams.truth import Truth


@dataclass(frozen=True, kw_only=True)
class FrameRecord:
    """What happened to one frame, or to a whole segment that was skipped; a line of the log.

    Attributes:
        time: seconds of the presentation.
        segment: its name.
        frame: number within the segment; None for a segment that was skipped.
        representation: id of its DASH representation.
        throughput: at which its segment was fetched, in kbit/s; None where that was not measured.
        bandwidth: that the representation declares, in kbit/s.
        sensed: level read from the segment; None where it cannot be sensed.
        used: level whose gear ran; "pristine" for the base.
        distance: between the two, in the kind's unit; infinite where an unsure frame runs with another kind's gear.
        misfit: of the input to the level sensed.
        off_map: why it is off the map of the gearbox.
        note: what else was found out about the segment, such as that a JPEG was saved twice.
        sensing_ms: time to sense the segment.
        decoding_ms: time to decode the segment, by frames.
        latency_ms: time of the network, pixels to prediction.
        score: of this frame alone; None without truth.
        skipped: why there is no prediction.
    """

    time: float
    segment: str
    frame: int | None = None
    representation: str = ""
    throughput: float | None = None
    bandwidth: float | None = None
    sensed: str | None = None
    used: str | None = None
    distance: float = 0.0
    misfit: float = 0.0
    off_map: str = ""
    note: str = ""
    sensing_ms: float = 0.0
    decoding_ms: float = 0.0
    latency_ms: float = 0.0
    score: float | None = None
    skipped: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON values, which know no infinite ones: None for the distance between kinds."""
        values = {k: v if not isinstance(v, float) or math.isfinite(v) else None for k, v in asdict(self).items()}
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()}


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A frame with its prediction, for masks and overlays."""

    image: Image.Image
    prediction: Any


@dataclass(kw_only=True)
class Tally:
    """Counts of a session; scores by level used."""

    frames: int = 0
    segments: int = 0
    skipped_segments: int = 0
    skipped_frames: int = 0
    shifts: int = 0
    scores: dict[str, Score] = field(default_factory=dict)
    frames_of: dict[str, int] = field(default_factory=dict)
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=100_000))


class Session:
    """Runs segments through a gearbox.

    Args:
        gearbox: with a problem.
        policy: for what is off the map.
        steady: hysteresis, segment by segment; None shifts whenever another gear is nearer.
        truth: of the frames.
        every: only every n-th frame of a segment runs, the first of it always.
    """

    def __init__(
        self,
        gearbox: GearBox,
        *,
        policy: Policy | None = None,
        steady: Steady | None = None,
        truth: Truth | None = None,
        every: int = 1,
    ) -> None:
        if every < 1:
            raise DataError(f"every: expected at least 1, but got {every}")
        self.gearbox, self.policy, self.steady, self.truth, self.every = (
            gearbox,
            policy or Policy(),
            steady,
            truth,
            every,
        )
        self.problem = gearbox.known_problem
        self.tally = Tally()
        self._gear: DistortionLevel | None = None

    def run(self, segments: Iterable[Segment]) -> Iterator[tuple[FrameRecord, Shown | None]]:
        """One record a frame, with the frame and its prediction; a segment that is skipped has one record.

        Whatever is wrong with a segment or a frame, the next one follows.
        """
        for segment in segments:
            self.tally.segments += 1
            try:
                if segment.received is None:
                    raise DataError(segment.lost)
                started = time.perf_counter()
                frames, times = segment.received.clip.frames, segment.received.clip.times
                decoded = time.perf_counter()
                choice = self._choice(segment.received)
                sensed = time.perf_counter()
            except GearNNError as error:
                self.tally.skipped_segments += 1
                yield self._record(segment, time=segment.start, skipped=str(error)), None
                continue
            clock = {"decoding_ms": 1e3 * (decoded - started) / len(frames), "sensing_ms": 1e3 * (sensed - decoded)}
            for index in range(0, len(frames), self.every):
                yield self._frame(segment, index, frames[index], segment.start + times[index], choice, clock)

    def _choice(self, received: Received) -> Choice:
        choice = self.gearbox.engine.choose(received, policy=self.policy)
        choice = choice if self.steady is None else self.steady(choice)
        gear = gear_of(choice.used)
        self.tally.shifts += self._gear is not None and gear != self._gear
        self._gear = gear
        return choice

    def _frame(
        self, segment: Segment, index: int, image: Image.Image, at: float, choice: Choice, clock: dict[str, float]
    ) -> tuple[FrameRecord, Shown | None]:
        used = str(gear_of(choice.used))
        facts: dict[str, Any] = {
            "time": at,
            "frame": index,
            "sensed": None if choice.sensed is None else str(choice.sensed),
            "used": used,
            "distance": choice.distance,
            "misfit": choice.misfit,
            "off_map": choice.off_map,
            "note": choice.note,
            **clock,
        }
        try:
            truth = None if self.truth is None else self.truth(segment.name, index, image.size)
            started = time.perf_counter()
            sample = Sample(image=image, target=truth, name=f"{segment.name}-{index}")
            prediction = self.gearbox.predict([sample], [choice.used])[0]
            latency_ms = 1e3 * (time.perf_counter() - started)
            if isinstance(prediction, GearNNError):
                raise prediction
            score = None if truth is None else self._score(used, prediction, sample)
        except GearNNError as error:
            self.tally.skipped_frames += 1
            return self._record(segment, **facts, skipped=str(error)), None
        self.tally.frames += 1
        self.tally.latencies_ms.append(latency_ms)
        self.tally.frames_of[used] = self.tally.frames_of.get(used, 0) + 1
        record = self._record(segment, **facts, latency_ms=latency_ms, score=score)
        return record, Shown(image=image, prediction=prediction)

    def _score(self, used: str, prediction: Any, sample: Sample) -> float | None:
        """Count a frame, and say its own score.

        Raises:
            DataError: the truth does not belong to the frame.
        """
        alone = self.problem.new_score()
        try:
            truth = self.problem.truths(self.problem.collate([sample]))[0]
            for score in (alone, self.tally.scores.setdefault(used, self.problem.new_score())):
                score.update(prediction, truth)
        except (ValueError, RuntimeError, IndexError) as error:
            raise DataError(f"frame {sample.name}: its truth cannot be used: {' '.join(str(error).split())}") from error
        return None if math.isnan(alone.primary) else alone.primary

    def _record(self, segment: Segment, **facts: Any) -> FrameRecord:
        return FrameRecord(
            segment=segment.name,
            representation=segment.representation,
            throughput=segment.throughput or None,
            bandwidth=segment.bandwidth or None,
            **facts,
        )
