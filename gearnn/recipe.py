"""How to fine-tune: the recipe, its optimiser, and the learning rate of every step."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

OptimizerName = Literal["sgd", "adam", "adamw"]
Schedule = Literal["constant", "cosine"]
Select = Literal["portfolio", "eq2"]
"""How layers are selected; see :mod:`gearnn.portfolio`."""
Target = Literal["labels", "base", "both"]
"""What a fine-tune learns from; see :mod:`gearnn.targets`."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to fine-tune; the defaults are the paper's (section 4.1) and the design's.

    Attributes:
        epochs: passes over the training split.
        batch_size: frames a step.
        optimizer: ``sgd``, ``adam`` or ``adamw``.
        lr: largest learning rate.
        relative: whether the rate of every tensor is lr times the root mean square of its values before
            the first step, at least 1e-3 (as in Adafactor, Shazeer and Stern 2018, arXiv 1804.04235). An
            adaptor's tensors differ in size by orders of magnitude: with one rate for all, the one that
            BatchNorm scales around 1 need destroys a stem whose weights are around 0.05.
        clip: largest norm of the gradient of all trained weights together; None clips nothing.
        momentum: of SGD.
        weight_decay: L2 penalty; even 1e-4 moves BatchNorm scales and would pollute Eq. 1.
        schedule: ``constant``, or ``cosine`` from lr down to 0.
        warmup: share of all steps over which the rate first rises linearly to lr.
        flip: probability of mirroring a frame.
        seed: of order and augmentation.
        num_workers: processes that read frames ahead; 0 reads in the training process.
    """

    epochs: int = 4
    batch_size: int = 8
    optimizer: OptimizerName = "sgd"
    lr: float = 1e-3
    relative: bool = False
    clip: float | None = None
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Schedule = "constant"
    warmup: float = 0.0
    flip: float = 0.5
    seed: int = 0
    num_workers: int = 0


_SMALLEST_SCALE = 1e-3


def make_optimizer(parameters: list[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser; each of its groups has a ``scale``, by which :func:`set_rate` multiplies the rate."""
    scales = [_scale(parameter) if recipe.relative else 1.0 for parameter in parameters]
    groups = [
        {"params": [p for p, own in zip(parameters, scales, strict=True) if own == scale], "scale": scale}
        for scale in dict.fromkeys(scales)
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=recipe.lr, weight_decay=recipe.weight_decay)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of the next step, relative where the recipe says so."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def clip_gradients(optimizer: torch.optim.Optimizer, recipe: Recipe) -> None:
    """Scale the gradients down where their norm exceeds the recipe's."""
    if recipe.clip is not None:
        trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        torch.nn.utils.clip_grad_norm_(trained, recipe.clip)


def _scale(parameter: nn.Parameter) -> float:
    return max(parameter.detach().float().square().mean().sqrt().item(), _SMALLEST_SCALE)


def learning_rate(recipe: Recipe, step: int, num_steps: int) -> float:
    """The rate of a step, counted from 0, out of all steps of the fine-tune.

    >>> [learning_rate(Recipe(lr=1.0, warmup=0.5), step, 4) for step in range(4)]
    [0.5, 1.0, 1.0, 1.0]
    """
    rising = round(recipe.warmup * num_steps)
    if step < rising:
        return recipe.lr * (step + 1) / rising
    if recipe.schedule == "constant":
        return recipe.lr
    return recipe.lr * 0.5 * (1.0 + math.cos(math.pi * (step - rising) / (num_steps - rising)))
