"""The benchmark's other solutions: single networks for all levels, and BatchNorm statistics without training."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import task

from gearnn.adaptor import Adaptor
from gearnn.datasets.mixture import Mixture
from gearnn.evaluation.baselines import reestimated
from gearnn.finetune import Loss, finetune
from gearnn.finetune_batches import Samples
from gearnn.layers import layers_of, room_for_layers, statistics_of
from gearnn.levels import PRISTINE, DistortionLevel
from gearnn.objectives import stability_loss
from gearnn.plan import Plan
from gearnn.plan.opened import Opened
from gearnn.portfolio import batchnorm_layers, last_layers
from gearnn.recipe import Recipe
from tasks.adapting.knapsack import selection_of
from tasks.progress import reporter
from tasks.records import AdaptorFile, Base, Data, Network, Selection
from tasks.step import step

MIXED = "mixed"
"""Where records name the level of training frames: that they are of several."""


def _common(opened: Opened, base: Base, data: Data) -> dict[str, Any]:
    plan = opened.plan
    return {
        "base": base.fingerprint,
        "frames": data.digests["train"],
        "problem": opened.problem.describe(),
        "finetune": plan.finetune.facts(),
        "batchnorm_statistics": plan.bound.batchnorm_statistics,
        "seed": plan.seed,
        "numerics": opened.numerics,
        **opened.identity,
    }


def _reads_mixed(opened: Opened, base: Base, data: Data, levels: Sequence[str], rounds: int) -> dict[str, Any]:
    return _common(opened, base, data) | {"levels": list(levels), "rounds": rounds}


@step(version=2, reads=_reads_mixed, label="mixed training, {rounds} times the steps", computes=True, resumes=True)
def mixed_training(
    opened: Opened, base: Base, data: Data, levels: Sequence[str], rounds: int, *, scratch: Path
) -> Network:
    """One network for all levels: the base fine-tuned on frames whose level is drawn anew every time.

    Args:
        opened: the plan.
        base: D.
        data: the checked frames.
        levels: to draw from, uniformly.
        rounds: how many times the steps of one full fine-tune.
        scratch: file for the last epoch.
    """
    plan = opened.plan
    members = [opened.samples("train", DistortionLevel.parse(level)) for level in levels]
    samples = Mixture(members, mixed_sizes=opened.problem.takes_mixed_sizes)
    how = plan.finetune.model_copy(update={"epochs": plan.finetune.epochs * rounds})
    recipe = how.recipe(seed=plan.seed, num_workers=plan.loader_workers)
    return _one_network(opened, base, MIXED, samples, recipe, None, scratch, f"mixed training x{rounds}")


def _reads_stability(opened: Opened, base: Base, data: Data, alpha: float, sigma: float) -> dict[str, Any]:
    return _common(opened, base, data) | {"alpha": alpha, "sigma": sigma}


@step(
    version=2,
    reads=_reads_stability,
    label="stability training alpha={alpha} sigma={sigma}",
    computes=True,
    resumes=True,
)
def stability_training(opened: Opened, base: Base, data: Data, alpha: float, sigma: float, *, scratch: Path) -> Network:
    """One network that has learnt, on undistorted frames, to give the same answer with noise as without."""
    samples = opened.samples("train", DistortionLevel())
    loss = stability_loss(opened.problem, alpha=alpha, sigma=sigma)
    what = f"stability training {alpha:g}, {sigma:g}"
    return _one_network(opened, base, PRISTINE, samples, opened.plan.full_recipe, loss, scratch, what)


def _one_network(
    opened: Opened,
    base: Base,
    level: str,
    samples: Samples,
    recipe: Recipe,
    loss: Loss | None,
    scratch: Path,
    what: str,
) -> Network:
    started = time.monotonic()
    tuned = finetune(
        opened.network(base.weights),
        samples,
        opened.problem,
        recipe,
        batchnorm_statistics=opened.plan.bound.batchnorm_statistics,
        loss=loss,
        compute=opened.compute,
        checkpoint=scratch,
        on_step=reporter(what),
    )
    return Network(
        level=level,
        weights=opened.keep_network(tuned.model),
        epoch_losses=tuned.epoch_losses,
        seconds=time.monotonic() - started,
    )


def _reads_reestimated(opened: Opened, base: Base, data: Data, level: str) -> dict[str, Any]:
    return {
        "base": base.fingerprint,
        "frames": data.digests["train"],
        "level": level,
        "problem": opened.problem.describe(),
        "batch_size": opened.plan.finetune.batch_size,
        "numerics": opened.numerics,
        **opened.identity,
    }


@step(version=1, reads=_reads_reestimated, label="BatchNorm statistics of {level}", computes=True)
def reestimate_statistics(opened: Opened, base: Base, data: Data, level: str) -> AdaptorFile:
    """The running statistics that the base has on training frames of a level, as an adaptor of nothing else."""
    started = time.monotonic()
    plan, network = opened.plan, opened.network(base.weights)
    found = reestimated(
        network,
        opened.samples("train", DistortionLevel.parse(level)),
        opened.problem,
        batch_size=plan.finetune.batch_size,
        compute=opened.compute,
        num_workers=plan.loader_workers,
    )
    adaptor = Adaptor.extract(network, found, [], level, batchnorm_statistics="all")
    return AdaptorFile(
        level=level,
        file=opened.store.put(adaptor.to_bytes(), ".safetensors"),
        num_values=sum(tensor.numel() for tensor in statistics_of(network).values()),
        epoch_losses=(),
        seconds=time.monotonic() - started,
    )


@task(name="choose BatchNorm layers")
def select_batchnorms(plan: Plan, base: Base, level: str) -> Selection:
    """Every BatchNorm layer, whatever the bound."""
    network, policy = Opened(plan).network(base.weights), plan.bound.batchnorm_statistics
    chosen = batchnorm_layers(layers_of(network, "layer", policy))
    return selection_of(level, chosen, network, policy)


@task(name="choose last layers")
def select_last(plan: Plan, base: Base, level: str) -> Selection:
    """The layers nearest to the output, up to the plan's bound."""
    network, policy = Opened(plan).network(base.weights), plan.bound.batchnorm_statistics
    bound = plan.bound.in_values(base.num_values)
    chosen = last_layers(layers_of(network, "layer", policy), room_for_layers(network, bound, policy))
    return selection_of(level, chosen, network, policy, bound)
