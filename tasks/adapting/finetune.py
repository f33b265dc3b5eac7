"""Full and partial fine-tuning of the base at one level (Algorithm 1, lines 2 and 8)."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from gearnn.adaptor import Adaptor
from gearnn.distortions import kind_of, needs_calibration
from gearnn.finetune import FineTuned, Loss, finetune
from gearnn.layers import Layer, layers_of, named
from gearnn.levels import DistortionLevel
from gearnn.objectives import distilled_loss
from gearnn.plan import Plan
from gearnn.plan.opened import Opened
from gearnn.plan.sections import RecipeSpec
from gearnn.portfolio import at_rate
from gearnn.recipe import Recipe
from gearnn.targets import try_folded
from tasks.progress import reporter
from tasks.records import AdaptorFile, Base, Data, Network, Selection
from tasks.step import keeper, step


def _without_teacher(how: RecipeSpec) -> dict[str, Any]:
    return {name: value for name, value in how.facts().items() if name != "distill"}


def _common(opened: Opened, base: Base, data: Data, level: str, how: RecipeSpec) -> dict[str, Any]:
    return {
        "base": base.fingerprint,
        "frames": data.digests["train"],
        "level": level,
        "problem": opened.problem.describe(),
        "finetune": _without_teacher(how),
        "batchnorm_statistics": opened.plan.bound.batchnorm_statistics,
        "seed": opened.plan.seed,
        "numerics": opened.numerics,
        **opened.identity,
    } | ({"target": opened.target} if opened.target != "labels" else {})


def _reads_full(opened: Opened, base: Base, data: Data, level: str) -> dict[str, Any]:
    return _common(opened, base, data, level, opened.plan.finetune)


@step(version=2, reads=_reads_full, label="full fine-tune {level}", computes=True, resumes=True)
def full_finetune(opened: Opened, base: Base, data: Data, level: str, scratch: Path) -> Network:
    """D*_q = f_q(D); at level ``pristine`` the control that plain extra training would give."""
    started = time.monotonic()
    tuned = _finetune(opened, base, level, opened.plan.full_recipe, None, scratch, f"full fine-tune {level}")
    return Network(
        level=level,
        weights=opened.keep_network(tuned.model),
        epoch_losses=tuned.epoch_losses,
        seconds=time.monotonic() - started,
    )


def _calibrated_by(level: DistortionLevel) -> dict[str, Any]:
    """What decides the calibration of an adaptor; nothing for levels that need none."""
    needs = {kind: kind_of(kind).features for kind in needs_calibration(level)}
    return {"calibrated": needs} if needs else {}


def _taught(plan: Plan, teacher: Network | None) -> dict[str, Any]:
    """What decides the objective of an adaptor besides its problem; nothing where that is the base's own loss."""
    return {"distill": plan.distill, "teacher": teacher.weights.sha256} if plan.distill and teacher else {}


def reads_of_adaptors(opened: Opened, base: Base, data: Data, level: str, teacher: Network | None) -> dict[str, Any]:
    """What decides every adaptor of a level, whichever layers it is of."""
    plan = opened.plan
    return _common(opened, base, data, level, plan.of_adaptors) | _taught(plan, teacher)


def _reads_partial(
    opened: Opened, base: Base, data: Data, level: str, selection: Selection, teacher: Network | None = None
) -> dict[str, Any]:
    return reads_of_adaptors(opened, base, data, level, teacher) | {
        "layers": selection.layers,
        "bound": selection.bound,
        "granularity": opened.plan.bound.granularity,
        **({"rate": selection.rate} if selection.rate != 1.0 else {}),
        **_calibrated_by(DistortionLevel.parse(level)),
    }


@step(version=2, reads=_reads_partial, label="partial fine-tune {level}", computes=True, resumes=True)
def partial_finetune(
    opened: Opened,
    base: Base,
    data: Data,
    level: str,
    selection: Selection,
    teacher: Network | None = None,
    *,
    scratch: Path,
) -> AdaptorFile:
    """A*_q = f_q(A_q): only the chosen layers move.

    Args:
        opened: the plan.
        base: D.
        data: the checked frames.
        level: q.
        selection: S.
        teacher: the full fine-tune of the level, which the adaptor follows as far as the plan says.
        scratch: file for the last epoch.
    """
    started = time.monotonic()
    plan, network = opened.plan, opened.network(base.weights)
    policy = plan.bound.batchnorm_statistics
    layers = named(layers_of(network, plan.bound.granularity, policy), selection.layers)
    what, loss = f"partial fine-tune {level}", objective(opened, teacher)
    tuned = _finetune(opened, base, level, at_rate(plan.partial_recipe, selection.rate), layers, scratch, what, loss)
    adaptor = Adaptor.extract(
        network,
        tuned.model,
        layers,
        level,
        bound=selection.bound,
        batchnorm_statistics=policy,
        notes={"data": data.digests["train"]},
    )
    try_folded(network, tuned.model, adaptor, opened.samples("train", DistortionLevel.parse(level)), opened.problem)
    adaptor = replace(adaptor, calibration=opened.calibration(DistortionLevel.parse(level)))
    return AdaptorFile(
        level=level,
        file=opened.store.put(adaptor.to_bytes(), ".safetensors"),
        num_values=adaptor.num_values,
        epoch_losses=tuned.epoch_losses,
        seconds=time.monotonic() - started,
    )


def objective(opened: Opened, teacher: Network | None) -> Loss | None:
    """What an adaptor minimises besides the problem's own loss; None: nothing."""
    share = opened.plan.distill
    if teacher is None or not share:
        return None
    return distilled_loss(opened.problem, opened.network(teacher.weights), share=share, compute=opened.compute)


def _finetune(
    opened: Opened,
    base: Base,
    level: str,
    recipe: Recipe,
    layers: list[Layer] | None,
    scratch: Path,
    what: str,
    loss: Loss | None = None,
) -> FineTuned:
    network = opened.network(base.weights)
    samples, problem = opened.training(DistortionLevel.parse(level), network)
    return finetune(
        network,
        samples,
        problem,
        recipe,
        layers=layers,
        batchnorm_statistics=opened.plan.bound.batchnorm_statistics,
        loss=loss,
        compute=opened.compute,
        checkpoint=scratch,
        on_step=reporter(what),
        on_checkpoint=keeper(opened.store),
    )
