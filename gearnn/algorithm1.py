"""Algorithm 1, DNN splitting and partial fine-tuning (offline), for one distortion level.

Run one level of a plan without Prefect and MLflow:

    python -m gearnn.algorithm1 PLAN LEVEL [ADAPTOR_FILE]
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import nn

from gearnn.adaptor import Adaptor
from gearnn.datasets import check_frames
from gearnn.errors import GearNNError, PlanError
from gearnn.evaluate import evaluate
from gearnn.finetune import Progress, finetune
from gearnn.finetune_batches import Samples
from gearnn.layers import BatchNormStatistics, Granularity, Layer, layers_of, model_size, named, room_for_layers
from gearnn.levels import DistortionLevel
from gearnn.machine.compute import Compute
from gearnn.objectives import distilled_loss
from gearnn.plan import Plan
from gearnn.plan.opened import Opened
from gearnn.plan.preflight import check_bound, check_levels, check_network, check_sizes
from gearnn.portfolio import EveryOther, at_rate, candidates, most_sensitive, trial_of, tried_out
from gearnn.problems.problem import Problem, Score
from gearnn.recipe import Recipe
from gearnn.sensitivity import weight_change
from gearnn.store.outputs import Outputs
from gearnn.targets import scored_by, try_folded


@dataclass(frozen=True, kw_only=True)
class Method:
    """How Algorithm 1 is run.

    Attributes:
        recipe: the fine-tuning process f_q.
        partial_recipe: another one for the adaptor; None takes the same.
        distill: share of the adaptor's loss that follows the predictions of D*_q; see
            :func:`gearnn.objectives.distilled_loss`.
        granularity: what counts as one layer.
        batchnorm_statistics: which running statistics move.
    """

    recipe: Recipe
    partial_recipe: Recipe | None = None
    distill: float = 0.0
    granularity: Granularity = "layer"
    batchnorm_statistics: BatchNormStatistics = "folded"


def adapt_level(
    base: nn.Module,
    samples: Samples,
    problem: Problem,
    level: DistortionLevel | str,
    bound: int,
    method: Method,
    *,
    promote: Samples | None = None,
    compute: Compute | None = None,
    on_step: Callable[[Progress], None] | None = None,
) -> Adaptor:
    """Find the adaptor A*_q of one distortion level q; the line numbers are those of Algorithm 1.

    Args:
        base: D, the pre-trained DNN; it stays as it is.
        samples: training frames at level q, with their truth.
        problem: loss and batching.
        level: q.
        bound: M, in values.
        method: f_q, and what it moves.
        promote: frames at level q on which nothing is reported; by them selections of :mod:`gearnn.portfolio` are
            tried beside Eq. 2's. None takes Eq. 2's.
        compute: device and precision; None chooses.
        on_step: called after every training step of both fine-tunes.
    """
    policy, compute = method.batchnorm_statistics, compute or Compute.resolve()
    tune = partial(finetune, base, samples, problem, batchnorm_statistics=policy, compute=compute, on_step=on_step)
    # 2: fine-tune D*_q = f_q(D) with the data of distortion level q
    full = tune(method.recipe)
    # 3-5: the values v_q by Eq. 1, and the sizes n
    table = weight_change(base, full.model, granularity=method.granularity, batchnorm_statistics=policy)
    # 6: S = knapsack(value = v_q, weight = n, bound = M), or another selection that is better on other frames
    layers, room = layers_of(base, method.granularity, policy), room_for_layers(base, bound, policy)
    share, recipe = method.distill, method.partial_recipe or method.recipe
    follow = distilled_loss(problem, full.model, share=share, compute=compute) if share else None
    selection = most_sensitive(layers, table, room)
    if promote is not None:
        short, every = trial_of(recipe)
        few = samples if every == 1 else EveryOther(samples, every, recipe.batch_size)

        def trial(_: str, chosen: Sequence[Layer], rate: float) -> Score:
            how = at_rate(short, rate)
            tried = finetune(
                base, few, problem, how, layers=chosen, batchnorm_statistics=policy, loss=follow, compute=compute
            )
            return evaluate(tried.model, promote, scored_by(problem), compute=compute)

        best = next(row for row in tried_out(candidates(layers, table, room), trial) if row.is_chosen)
        selection, recipe = named(layers, best.layers), at_rate(recipe, best.rate)
    # 7, 8: the subset of layers is A_q = {l_i : i in S}; partially fine-tune A*_q = f_q(A_q)
    subset = list(selection)
    tuned = tune(recipe, layers=subset, loss=follow)
    adaptor = Adaptor.extract(base, tuned.model, subset, level, bound=bound, batchnorm_statistics=policy)
    try_folded(base, tuned.model, adaptor, samples, problem)
    return adaptor


def adapt_from_plan(plan: Plan, level: DistortionLevel, on_step: Callable[[Progress], None] | None = None) -> Adaptor:
    """:func:`adapt_level` with everything as a plan says; the plan must name a checkpoint.

    Raises:
        PlanError: the plan has no checkpoint, or the level needs no adaptor.
    """
    if plan.base.checkpoint is None or plan.base.train is not None:
        raise PlanError("plan: base.checkpoint: expected a trained base; `gearnn train-base` makes one")
    if level.is_pristine:
        raise PlanError(f"level {level}: expected a distorted level; at a pristine one the base itself runs")
    opened = Opened(plan)
    base = opened.base()
    check_bound(plan, base)
    check_sizes(opened)
    check_frames(opened.frames("train"))
    check_levels(opened)
    check_network(opened)
    samples, problem = opened.training(level, base)
    adaptor = adapt_level(
        base,
        samples,
        problem,
        level,
        plan.bound.in_values(model_size(base)),
        Method(
            recipe=plan.full_recipe,
            partial_recipe=plan.partial_recipe,
            distill=plan.distill,
            granularity=plan.bound.granularity,
            batchnorm_statistics=plan.bound.batchnorm_statistics,
        ),
        promote=opened.samples("promote", level) if plan.bound.select == "portfolio" else None,
        compute=opened.compute,
        on_step=on_step,
    )
    return replace(adaptor, calibration=opened.calibration(level))


def main(arguments: list[str]) -> int:
    """The command; exit status as for ``gearnn``."""
    if len(arguments) not in (2, 3):
        print("usage: python -m gearnn.algorithm1 PLAN LEVEL [ADAPTOR_FILE]", file=sys.stderr)
        return 2
    try:
        plan, level = Plan.load(arguments[0]), DistortionLevel.parse(arguments[1])
        path = Path(arguments[2] if len(arguments) == 3 else f"{level.slug}.safetensors")
        if not path.parent.is_dir():
            raise PlanError(f"output {path}: expected the folder {path.parent} to exist")
        outputs = Outputs(path.parent, [arguments[0], *([plan.base.checkpoint] if plan.base.checkpoint else [])])
        outputs.check(path.name)
        adaptor = adapt_from_plan(plan, level, _print_epochs)
        with outputs.fresh(path.name) as written:
            adaptor.save(written)
    except GearNNError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    print(f"{path}: {adaptor.num_values} of {adaptor.bound} values in {len(adaptor.layers)} layers")
    return 0


def _print_epochs(progress: Progress) -> None:
    if progress.step * progress.num_epochs % progress.num_steps < progress.num_epochs:
        print(
            f"epoch {progress.epoch} of {progress.num_epochs}: loss {progress.loss:.4f}, "
            f"{progress.seconds_left:.0f} s left in this fine-tune",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
