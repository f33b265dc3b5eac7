"""Selections of layers beside that of Eq. 2, tried by short fine-tunes, and the one that is adapted."""

import math
from collections.abc import Sequence
from typing import Any

from gearnn.evaluate import evaluate
from gearnn.evaluation.solutions import PROMOTE
from gearnn.finetune import finetune
from gearnn.layers import Layer, layers_of, named, room_for_layers
from gearnn.levels import DistortionLevel
from gearnn.plan.opened import Opened
from gearnn.portfolio import EveryOther, at_rate, candidates, trial_of, tried_out
from gearnn.portfolio import Tried as Attempt
from gearnn.problems.problem import Score as Counted
from gearnn.sensitivity import read_table
from tasks.adapting.finetune import objective, reads_of_adaptors
from tasks.adapting.knapsack import selection_of
from tasks.progress import logger_here, reporter
from tasks.records import Base, Data, Network, Selection, Table, Tried
from tasks.step import step


def _reads(
    opened: Opened, base: Base, data: Data, table: Table, selection: Selection, teacher: Network | None = None
) -> dict[str, Any]:
    return reads_of_adaptors(opened, base, data, table.level, teacher) | {
        "layers": selection.layers,
        "bound": selection.bound,
        "granularity": opened.plan.bound.granularity,
        "table": table.parquet.sha256,
        "promote": data.digests[PROMOTE],
    }


@step(version=1, reads=_reads, label="try selections {table.level}", computes=True)
def try_selections(
    opened: Opened, base: Base, data: Data, table: Table, selection: Selection, teacher: Network | None = None
) -> Selection:
    """Choose by trial between Eq. 2's layers and others of the same bytes.

    Args:
        opened: the plan.
        base: D.
        data: the checked frames.
        table: sensitivities of the level.
        selection: Eq. 2's.
        teacher: the full fine-tune of the level, which adaptors follow as far as the plan says.
    """
    plan, network, level = opened.plan, opened.network(base.weights), DistortionLevel.parse(table.level)
    policy, compute = plan.bound.batchnorm_statistics, opened.compute
    layers = layers_of(network, plan.bound.granularity, policy)
    rows, _ = read_table(opened.store.get(table.parquet))
    found = candidates(layers, rows, room_for_layers(network, selection.bound, policy))
    samples, problem = opened.training(level, network)
    recipe, every = trial_of(plan.partial_recipe)
    loss = objective(opened, teacher)

    def trial(name: str, chosen: Sequence[Layer], rate: float) -> Counted:
        tuned = finetune(
            network,
            samples if every == 1 else EveryOther(samples, every, recipe.batch_size),
            problem,
            at_rate(recipe, rate),
            layers=chosen,
            batchnorm_statistics=policy,
            loss=loss,
            compute=compute,
            on_step=reporter(f"trial of {name} {level}"),
        )
        promote, own = opened.samples(PROMOTE, level), opened.problem
        return evaluate(tuned.model, promote, own, batch_size=plan.finetune.batch_size, compute=compute)

    tried = tried_out(found, trial)
    best = next(row for row in tried if row.is_chosen)
    told = ", ".join(f"{_named(row)} {row.score:.1f}" for row in tried)
    logger_here().info("%s: trials on %s: %s; chosen: %s", level, opened.split(PROMOTE), told, _named(best))
    chosen = selection_of(table.level, named(layers, best.layers), network, policy, selection.bound)
    records = tuple(
        Tried(
            name=row.name,
            score=_known(row.score),
            gain=(_known(row.gain[0]), _known(row.gain[1])),
            rate=row.rate,
            is_chosen=row.is_chosen,
            num_layers=len(row.layers),
        )
        for row in tried
    )
    return chosen.model_copy(update={"tried": records, "rate": best.rate})


def _named(row: Attempt) -> str:
    return row.name if row.rate == 1.0 else f"{row.name} at {row.rate:g} of the rate"


def _known(figure: float) -> float | None:
    """A figure as JSON can hold it."""
    return None if math.isnan(figure) else figure
