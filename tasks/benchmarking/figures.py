"""All that a benchmark found out, and the figures that show it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gearnn.evaluation import figures, solutions
from gearnn.evaluation.figures import Figure
from gearnn.evaluation.memory import Memory
from gearnn.evaluation.results import Results
from gearnn.levels import DistortionLevel
from gearnn.plan import Plan
from tasks.records import Base, Data


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All that a benchmark found out.

    Attributes:
        plan: what was asked.
        base: the pre-trained DNN.
        data: the checked frames.
        table: with the columns of :data:`gearnn.evaluation.results.SCHEMA`.
        sensitivities: level -> sensitivity table.
        responses: title -> frequency response of blocks; the base's first.
        whole_responses: the same of whole frames.
        memory: rows of Table 1.
        examples: one a frame: level -> title -> picture.
        run_id: MLflow run of the benchmark.
        failures: what could not be measured, and why.
    """

    plan: Plan
    base: Base
    data: Data
    table: pd.DataFrame
    sensitivities: Mapping[str, pd.DataFrame]
    responses: Mapping[str, np.ndarray]
    whole_responses: Mapping[str, np.ndarray]
    memory: Sequence[Memory]
    examples: Sequence[Mapping[str, Mapping[str, np.ndarray]]]
    run_id: str
    failures: tuple[str, ...]

    @property
    def results(self) -> Results:
        """The primary figure on the test split."""
        return Results(self.table, self.plan.levels)

    @property
    def metrics(self) -> list[str]:
        """Every figure on the test split, the primary one first."""
        names = [name for name in dict.fromkeys(self.table["metric"]) if name]
        return sorted(names, key=lambda name: name != self.results.metric)


def draw(found: Findings) -> dict[str, Figure]:
    """Every figure of a benchmark, by the name of its file."""
    levels, size = list(found.plan.levels), found.base.num_values
    drawn: dict[str, Figure] = {}
    for metric in found.metrics:
        drawn[f"accuracy-{metric.replace('_', '-')}"] = figures.accuracy_over_levels(
            Results(found.table, levels, metric)
        )
    results = Results(found.table, levels)
    if sum(solution.name == solutions.STABILITY for solution in results.solutions) > 1:
        drawn["stability"] = figures.stability_grid(results)
    if found.plan.benchmark.matrix:
        drawn["matrix"] = figures.matrix(results)
    spec = found.plan.benchmark.bounds
    for level in (spec.levels or [str(found.plan.distortion_levels[0])]) if spec else ():
        drawn[f"bound-{DistortionLevel.parse(level).slug}"] = figures.accuracy_over_bound(results, level, size)
    if found.sensitivities:
        drawn["weight-change"] = figures.weight_change(found.sensitivities, size)
    for name, maps in (("frequency", found.responses), ("frequency-whole-frame", found.whole_responses)):
        if maps:
            drawn[name] = figures.frequency_maps(maps)
    for number, rows in enumerate(found.examples, start=1):
        drawn[f"example-{number}"] = figures.examples(rows)
    return drawn
