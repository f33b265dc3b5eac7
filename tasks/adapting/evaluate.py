"""The score of one solution at one level, on the splits by which versions are chosen and reported."""

from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from gearnn.evaluate import evaluate
from gearnn.evaluation.solutions import PROMOTE, TEST
from gearnn.levels import DistortionLevel
from gearnn.plan.opened import Opened, Role
from gearnn.problems.problem import Comparable
from gearnn.problems.problem import Score as Counted
from gearnn.store.files import content_of
from gearnn.store.storage import Ref
from tasks.adapting.base import solution_of
from tasks.records import AdaptorFile, Base, Data, Network, Score
from tasks.step import step

SCORED: tuple[Role, ...] = (PROMOTE, TEST)


def _reads(
    opened: Opened, base: Base, data: Data, level: str, solution: str, trained: Network | AdaptorFile | None
) -> dict[str, Any]:
    return {
        "base": base.weights.sha256,
        "network": trained.weights.sha256 if isinstance(trained, Network) else None,
        "adaptor": trained.file.sha256 if isinstance(trained, AdaptorFile) else None,
        "frames": {role: data.digests[role] for role in SCORED},
        "problem": opened.problem.describe(),
        "level": level,
        "solution": solution,
        "numerics": opened.numerics,
        **opened.identity,
    }


@step(version=2, reads=_reads, label="evaluate {solution} at {level}", computes=True)
def evaluate_solution(
    opened: Opened, base: Base, data: Data, level: str, solution: str, trained: Network | AdaptorFile | None
) -> Score:
    """Score a solution on frames of one level.

    Args:
        opened: the plan.
        base: the base.
        data: the checked frames.
        level: of the frames.
        solution: its name, for the record.
        trained: a whole network, or an adaptor of the base; None takes the base.
    """
    model = solution_of(opened, base, trained)
    by_split: dict[str, Counted] = {}
    for role in SCORED:
        split = opened.split(role)
        if split not in by_split:
            by_split[split] = _score(opened, model, role, level)
    counted = {role: by_split[opened.split(role)] for role in SCORED}
    interval = counted["test"].interval()
    return Score(
        solution=solution,
        level=level,
        figure=counted["test"].primary_name,
        values={role: score.primary for role, score in counted.items()},
        low=interval.low,
        high=interval.high,
        per_class=tuple(counted["test"].per_class),
        figures={role: score.figures for role, score in counted.items()},
        draws={role: _kept(opened, score) for role, score in counted.items() if isinstance(score, Comparable)},
    )


def _kept(opened: Opened, score: Comparable) -> Ref:
    """The figure's draws in the store, as npy, float32 [num_draws]."""

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, score.draws().astype(np.float32), allow_pickle=False)

    return opened.store.put(content_of(write, ".npy"), ".npy")


def _score(opened: Opened, model: nn.Module, role: Role, level: str) -> Counted:
    return evaluate(
        model,
        opened.samples(role, DistortionLevel.parse(level)),
        opened.problem,
        batch_size=opened.plan.finetune.batch_size,
        compute=opened.compute,
        num_workers=opened.plan.loader_workers,
    )
