"""The score of one solution at one level, on the splits by which versions are chosen and reported."""

from typing import Any

from torch import nn

from gearnn.evaluate import evaluate
from gearnn.evaluation.solutions import PROMOTE, TEST
from gearnn.levels import DistortionLevel
from gearnn.plan import Plan
from gearnn.plan.resolve import Role, compute_of, network_identity, numerics_of, samples_of
from gearnn.problems.problem import Score as Counted
from tasks.adapting.base import fetch_solution, problem_for
from tasks.records import AdaptorFile, Base, Data, Network, Score
from tasks.step import step

SCORED: tuple[Role, ...] = (PROMOTE, TEST)


def _reads(
    plan: Plan, base: Base, data: Data, level: str, solution: str, trained: Network | AdaptorFile | None
) -> dict[str, Any]:
    return {
        "base": base.weights.sha256,
        "network": trained.weights.sha256 if isinstance(trained, Network) else None,
        "adaptor": trained.file.sha256 if isinstance(trained, AdaptorFile) else None,
        "frames": {role: data.digests[role] for role in SCORED},
        "problem": problem_for(plan).describe(),
        "level": level,
        "solution": solution,
        "numerics": numerics_of(plan),
        **network_identity(plan),
    }


@step(version=1, reads=_reads, label="evaluate {solution} at {level}", computes=True)
def evaluate_solution(
    plan: Plan, base: Base, data: Data, level: str, solution: str, trained: Network | AdaptorFile | None
) -> Score:
    """Score a solution on frames of one level.

    Args:
        plan: the plan.
        base: the base.
        data: the checked frames.
        level: of the frames.
        solution: its name, for the record.
        trained: a whole network, or an adaptor of the base; None takes the base.
    """
    model = fetch_solution(plan, base, trained)
    by_split: dict[str, Counted] = {}
    for role in SCORED:
        split = getattr(plan.data.splits, role)
        if split not in by_split:
            by_split[split] = _score(plan, model, role, level)
    counted = {role: by_split[getattr(plan.data.splits, role)] for role in SCORED}
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
    )


def _score(plan: Plan, model: nn.Module, role: Role, level: str) -> Counted:
    return evaluate(
        model,
        samples_of(plan, role, DistortionLevel.parse(level)),
        problem_for(plan),
        batch_size=plan.finetune.batch_size,
        compute=compute_of(plan),
        num_workers=plan.loader_workers,
    )
