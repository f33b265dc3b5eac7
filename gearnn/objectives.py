"""What is minimised besides the base's own loss: stability training, and distillation.

Both compare predictions with predictions, so both need a problem that classifies pixels or frames:
:class:`gearnn.problems.problem.Classifying`.
"""

from typing import Any

import torch
from torch import Tensor, nn

from gearnn.errors import PlanError
from gearnn.finetune import Loss
from gearnn.machine.compute import Compute
from gearnn.problems.problem import Classifying, Problem


def stability_loss(problem: Problem, *, alpha: float, sigma: float) -> Loss:
    """L = L0(x) + alpha * Ls of stability training (Zheng et al. 2016, arXiv 1604.04326; section 4.2).

    Ls is the cross-entropy of the prediction on x + noise against the prediction on x, with gradients
    through both; noise ~ N(0, sigma^2) on pixels in [0, 1]. Pixels without truth are left out. Frames with
    noise and without go through the network one after the other. That is the same as together where BatchNorm
    statistics are frozen; where they move, they see both kinds of frames in turn.

    Args:
        problem: of the base; it must classify.
        alpha: weight of Ls.
        sigma: standard deviation of the noise, in units of the whole range of a pixel.

    Raises:
        PlanError: the problem does not classify.
    """
    classifying = _classifying(problem, "stability training")

    def loss(model: nn.Module, batch: Any) -> Tensor:
        own, logits, counted = loss_and_logits(classifying, model, batch)
        noisy = [pixels + sigma * torch.randn_like(pixels) for pixels in classifying.pixels(batch)]
        shaken, _ = classifying.logits(model, classifying.with_pixels(batch, noisy))
        return own + alpha * cross_entropy(shaken, logits, counted)

    return loss


def distilled_loss(problem: Problem, teacher: nn.Module, *, share: float, compute: Compute) -> Loss:
    """(1 - share) * L0 + share * the cross-entropy against a teacher's prediction on the same frames.

    For an adaptor the teacher is the full fine-tune of its level, which Algorithm 1 has anyway.

    Args:
        problem: of the base; it must classify.
        teacher: its predictions are what to come close to; it stays as and where it is.
        share: of the teacher in the loss, 0 to 1.
        compute: device and precision.

    Raises:
        PlanError: the problem does not classify.
    """
    classifying = _classifying(problem, "distillation")
    frozen = compute.lent(teacher).eval()

    def loss(model: nn.Module, batch: Any) -> Tensor:
        own, logits, counted = loss_and_logits(classifying, model, batch)
        with torch.no_grad():
            wanted, _ = classifying.logits(frozen, batch)
        return (1.0 - share) * own + share * cross_entropy(logits, wanted, counted)

    return loss


def check_classifies(problem: Problem, what: str) -> None:
    """Make sure that a problem has what an objective needs.

    Raises:
        PlanError: it has not.
    """
    _classifying(problem, what)


def _classifying(problem: Problem, what: str) -> Classifying:
    if not isinstance(problem, Classifying):
        name = problem.describe().get("name")
        raise PlanError(
            f"{what}: expected a problem that classifies pixels or frames, because predictions are compared "
            f"with each other, but got {name}"
        )
    return problem


def loss_and_logits(problem: Classifying, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The problem's loss, auxiliary heads included, and the logits behind it, by one forward pass."""
    outputs: list[Any] = []
    hook = model.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        own = problem.loss(model, batch)
    finally:
        hook.remove()
    logits, counted = problem.logits(_Replayed(outputs[-1]) if outputs else model, batch)
    return own, logits, counted


class _Replayed(nn.Module):
    """Gives what a network gave, without running it again."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, *_: Any) -> Any:
        return self.output


def cross_entropy(logits: Tensor, wanted: Tensor, counted: Tensor) -> Tensor:
    """Mean of -sum_c softmax(wanted)_c * log softmax(logits)_c over counted places; 0 where none counts.

    Args:
        logits: [B, C, ...].
        wanted: logits of the same shape.
        counted: bool [B, ...].
    """
    each = -(wanted.float().softmax(dim=1) * logits.float().log_softmax(dim=1)).sum(dim=1)
    return each[counted].mean() if bool(counted.any()) else each[counted].sum()  # of nothing: exactly 0
