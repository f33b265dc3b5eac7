"""Frames of the test split as every level delivers them, beside their truth and what base and adaptor see."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from gearnn.datasets import Sample
from gearnn.evaluation import solutions
from gearnn.evaluation.frequency import evenly_spread
from gearnn.plan.opened import Opened
from gearnn.problems.problem import Drawable
from tasks.adapting.base import solution_of
from tasks.records import Base, Entrant, Measured

Pictures = dict[str, dict[str, np.ndarray]]
_MOST_LEVELS = 4


def draw_examples(opened: Opened, base: Base, measured: Sequence[Measured]) -> list[Pictures]:
    """One dictionary a frame: level -> title -> picture; of some levels, evenly spread over the plan's.

    None where the problem cannot be drawn, such as classes of whole frames.
    """
    plan, problem = opened.plan, opened.problem
    number = len(opened.frames("test"))
    indices = evenly_spread(number, plan.benchmark.examples) if plan.benchmark.examples else []
    if not isinstance(problem, Drawable) or not indices:
        return []
    drawn: list[Pictures] = [{} for _ in indices]
    levels = plan.distortion_levels
    for level in (levels[i] for i in evenly_spread(len(levels), _MOST_LEVELS)):
        samples, networks = opened.samples("test", level), _networks(opened, base, measured, str(level))
        for rows, index in zip(drawn, indices, strict=True):
            rows[str(level)] = _pictures(opened, problem, samples[index], networks)
    return drawn


def _networks(opened: Opened, base: Base, measured: Sequence[Measured], level: str) -> dict[str, nn.Module]:
    """The networks of a level by the solution's name."""
    networks = {solutions.BASE: solution_of(opened, base, None)}
    for name in (solutions.ADAPTOR, solutions.FULL):
        entrants = (one.entrant for one in measured)
        own = next((e for e in entrants if _is(e, name, level)), None)
        if own is not None:
            networks[name] = solution_of(opened, base, own.adaptor or own.network)
    return networks


def _is(entrant: Entrant, name: str, level: str) -> bool:
    return (entrant.solution, entrant.trained, entrant.setting) == (name, level, "") and entrant.failure is None


@torch.inference_mode()
def _pictures(
    opened: Opened, problem: Drawable, sample: Sample, networks: Mapping[str, nn.Module]
) -> dict[str, np.ndarray]:
    compute = opened.compute
    batch = problem.to(problem.collate([sample]), compute)
    frame = np.asarray(sample.image)
    pictures = {"frame": frame, "truth": problem.draw(frame, problem.truths(batch)[0])}
    for name, network in networks.items():
        with compute.autocast():
            prediction = problem.predict(compute.lent(network).eval(), batch)[0]
        pictures[name] = problem.draw(frame, prediction)
    return pictures
