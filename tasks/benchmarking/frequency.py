"""Frequency responses of networks (section 3.1)."""

import io
from typing import Any

import numpy as np

from gearnn.evaluation.frequency import frequency_response
from gearnn.levels import DistortionLevel
from gearnn.plan import Plan
from gearnn.plan.opened import Opened
from tasks.adapting.base import solution_of
from tasks.progress import counter
from tasks.records import AdaptorFile, Base, Data, FrequencyMap, Network
from tasks.step import step


def _frames(plan: Plan) -> int:
    assert plan.benchmark.frequency is not None, "somebody asked for frequency responses"
    return plan.benchmark.frequency.frames


def _reads(
    opened: Opened, base: Base, data: Data, solution: str, level: str, trained: Network | AdaptorFile | None, block: int
) -> dict[str, Any]:
    return {
        "base": base.weights.sha256,
        "trained": _digest(trained),
        "frames": data.digests["test"],
        "num_frames": _frames(opened.plan),
        "problem": opened.problem.describe(),
        "solution": solution,
        "level": level,
        "block": block,
        "numerics": opened.numerics,
        **opened.identity,
    }


def _digest(trained: Network | AdaptorFile | None) -> str | None:
    if trained is None:
        return None
    return (trained.weights if isinstance(trained, Network) else trained.file).sha256


@step(version=2, reads=_reads, label="frequency response of {solution} {level}", computes=True)
def measure_frequency(
    opened: Opened, base: Base, data: Data, solution: str, level: str, trained: Network | AdaptorFile | None, block: int
) -> FrequencyMap:
    """The frequency response of a solution on undistorted frames of the test split.

    Args:
        opened: the plan.
        base: the base.
        data: the checked frames.
        solution: what it is, for the record.
        level: of its training frames, for the record.
        trained: a network, or an adaptor of the base; None takes the base.
        block: side of the blocks in pixels; 0 takes whole frames.
    """
    response = frequency_response(
        solution_of(opened, base, trained),
        opened.samples("test", DistortionLevel()),
        opened.problem,
        block=block or None,
        num_frames=_frames(opened.plan),
        compute=opened.compute,
        on_frame=counter(f"frequency response {solution} {level}"),
    )
    content = io.BytesIO()
    np.save(content, response)
    return FrequencyMap(
        solution=solution,
        level=level,
        block=block,
        num_frames=_frames(opened.plan),
        file=opened.store.put(content.getvalue(), ".npy"),
    )
