"""How well levels are sensed, and what sensing them wrongly costs in accuracy (section 3.3's online half)."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import inference_mode

from gearnn.datasets import DistortedDataset
from gearnn.distortions import Sensed
from gearnn.errors import DataError, SenseError
from gearnn.gearbox import GearBox
from gearnn.gears.choice import Policy, gear_of
from gearnn.levels import DistortionLevel
from gearnn.machine.compute import Compute


@dataclass(frozen=True, kw_only=True)
class SensingFacts:
    """How frames of one level were sensed.

    Attributes:
        level: their true level.
        used: level whose gear sensing chose -> number of frames; frames that could not be sensed stand
            under None.
        figure: name of the score.
        given: score with the gear of the true level.
        sensed: score with the gears that sensing chose; a frame that could not be sensed ran on the base.
        unlike: number of frames whose misfit is beyond the limits of their kinds, so off the map.
    """

    level: DistortionLevel
    used: dict[DistortionLevel | None, int]
    figure: str
    given: float
    sensed: float
    unlike: int = 0

    @property
    def share_right(self) -> float:
        """Share of the frames that ran with the gear of their true level."""
        return self.used.get(gear_of(self.level), 0) / sum(self.used.values())


@inference_mode()
def measure_sensing(
    gearbox: GearBox,
    samples: DistortedDataset,
    *,
    compute: Compute | None = None,
    on_frame: Callable[[], None] | None = None,
) -> SensingFacts:
    """Sense every frame of a level, and score the split with the gears given and with the gears sensed.

    Args:
        gearbox: with a problem, and with an adaptor for the level unless it is pristine.
        samples: frames with truth.
        compute: device and precision; None takes the base's device in full precision.
        on_frame: called after every frame.
    """
    problem = gearbox.problem
    if problem is None:
        raise DataError("expected a gearbox with a problem, because predictions are scored")
    compute = compute or Compute(device=next(gearbox.base.parameters()).device, bf16=False)
    given, sensed = problem.new_score(), problem.new_score()
    used: Counter[DistortionLevel | None] = Counter()
    unlike, policy = 0, Policy()
    for index in range(len(samples)):
        answer = _sensed(gearbox, samples.encoded(index))
        chosen = None if answer is None else gear_of(gearbox.nearest(answer.level))
        unlike += answer is not None and bool(policy.unlike(answer))
        used[chosen] += 1
        batch = problem.to(problem.collate([samples[index]]), compute)
        truth = problem.truths(batch)[0]
        predictions: dict[DistortionLevel, Any] = {}
        for score, level in ((given, gear_of(samples.level)), (sensed, chosen or DistortionLevel())):
            if level not in predictions:
                with compute.autocast():
                    predictions[level] = problem.predict(gearbox.model(level), batch)[0]
            score.update(predictions[level], truth)
        if on_frame is not None:
            on_frame()
    return SensingFacts(
        level=samples.level,
        used=dict(used),
        figure=given.primary_name,
        given=given.primary,
        sensed=sensed.primary,
        unlike=unlike,
    )


def _sensed(gearbox: GearBox, data: bytes) -> Sensed | None:
    try:
        return gearbox.sense(data)
    except SenseError:
        return None
