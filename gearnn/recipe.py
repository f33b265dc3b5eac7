"""How to fine-tune: the recipe, its optimiser, and the learning rate of every step."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

OptimizerName = Literal["sgd", "adam", "adamw"]
Schedule = Literal["constant", "cosine"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to fine-tune; the defaults are the paper's (section 4.1) and the design's.

    Attributes:
        epochs: passes over the training split.
        batch_size: frames a step.
        optimizer: ``sgd``, ``adam`` or ``adamw``.
        lr: largest learning rate.
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
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Schedule = "constant"
    warmup: float = 0.0
    flip: float = 0.5
    seed: int = 0
    num_workers: int = 0


def make_optimizer(parameters: list[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over these parameters."""
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)


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
