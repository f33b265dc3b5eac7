"""f_q: fine-tuning a network on frames of one distortion level (Algorithm 1, lines 2 and 8).

One loop serves the whole network and chosen layers alike. Every random choice comes from generators
seeded by the recipe, so the same recipe gives the same weights, whatever else the process does.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gearnn.errors import DataError, DivergedError, PlanError
from gearnn.finetune_batches import Samples, batches_of
from gearnn.finetune_job import Job, moving_statistics
from gearnn.layers import BatchNormStatistics, Layer, check_finite, overlapping
from gearnn.machine.compute import Compute, own_copy
from gearnn.machine.randomness import own_stream
from gearnn.problems.problem import Problem, teaches
from gearnn.recipe import Recipe, clip_gradients, learning_rate, make_optimizer, set_rate

_LOGGER = logging.getLogger("gearnn")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a fine-tune stands.

    Attributes:
        step: steps done, over all epochs.
        num_steps: steps in all.
        epoch: epochs begun.
        num_epochs: epochs in all.
        loss: of the last step.
        seconds_left: estimate from the steps of this process.
    """

    step: int
    num_steps: int
    epoch: int
    num_epochs: int
    loss: float
    seconds_left: float


@dataclass(frozen=True, kw_only=True)
class FineTuned:
    """A fine-tuned network.

    Attributes:
        model: on the CPU, in evaluation mode; the base that went in is unchanged.
        epoch_losses: mean training loss of every epoch, over the batches that have truth.
    """

    model: nn.Module
    epoch_losses: tuple[float, ...]


Loss = Callable[[nn.Module, Any], Tensor]
"""What is minimised: called with the network and a batch, gives a scalar."""


def finetune(
    base: nn.Module,
    samples: Samples,
    problem: Problem,
    recipe: Recipe,
    *,
    layers: Sequence[Layer] | None = None,
    batchnorm_statistics: BatchNormStatistics = "folded",
    loss: Loss | None = None,
    compute: Compute | None = None,
    checkpoint: Path | None = None,
    on_step: Callable[[Progress], None] | None = None,
    on_checkpoint: Callable[[Path], None] | None = None,
) -> FineTuned:
    """Fine-tune a copy of the base.

    Args:
        base: the network D to start from.
        samples: distorted training frames; of :class:`Variants` every step draws one a frame.
        problem: loss and batching.
        recipe: how.
        layers: the layers S to move (partial fine-tuning); None moves every learnable weight.
        batchnorm_statistics: which running statistics move: ``frozen`` none, ``folded`` and ``selected`` those of
            the layers that are trained, ``all`` every one. Folding them comes after, with
            :meth:`gearnn.adaptor.Adaptor.extract`.
        loss: what to minimise; None takes the problem's loss.
        compute: device and precision; None chooses.
        checkpoint: file that holds the state after each epoch. Where it exists and was written for
            the same base, layers and recipe, training goes on from there, with the result that an
            unbroken run would have. It stays at the end; remove it once the result is stored, and
            use another file for other frames.
        on_step: called after every step.
        on_checkpoint: called with the file ``checkpoint`` after every epoch, to copy it to a safer place.

    Returns:
        The fine-tuned network, in float32 whatever the base's precision: half of it would round the change
        away. Values outside the trained layers and statistics are those of the base, bit for bit where it is
        float32.

    Raises:
        DivergedError: the loss, a weight, a statistic or the optimiser's state became NaN or infinite.
        DataError: there are no frames.
        CheckpointError: the base has NaN, infinity, or values beyond float32's range.
        PlanError: nothing in the network, or in the layers, can learn, or the loss depends on none of it; or the
            network cannot be copied, see :func:`gearnn.machine.compute.own_copy`.
    """
    if len(samples) == 0:
        raise DataError("fine-tuning: expected at least one training frame, but got none")
    check_finite(base, "fine-tuning: base")
    if apart := overlapping(base):
        _LOGGER.warning(
            "%s share memory in the base; they are trained apart, and every copy holds them apart", ", ".join(apart)
        )
    compute = compute or Compute.resolve()
    learnable = {name: p.requires_grad for name, p in base.named_parameters()}
    model = compute.place(own_copy(base).float())
    moving = moving_statistics(model, layers, batchnorm_statistics)
    trained = _choose_weights(model, layers)
    job = Job(
        model, make_optimizer(list(trained.values()), recipe), trained, moving,
        recipe=recipe, compute=compute, checkpoint=checkpoint,
        facts={"problem": problem.describe(), "num_frames": len(samples)},
    )  # fmt: skip
    losses = job.resume()
    clock = _Clock(recipe, steps_per_epoch=math.ceil(len(samples) / recipe.batch_size), epochs_done=len(losses))
    for epoch in range(len(losses), recipe.epochs):
        batches = batches_of(samples, problem, recipe, epoch)
        losses.append(_epoch(job, problem, loss or problem.loss, batches, clock, compute, on_step))
        job.check_finite(epoch)
        if epoch == 0:
            _report_idle(job, layers)
        job.save(losses)
        if on_checkpoint is not None and checkpoint is not None:
            on_checkpoint(checkpoint)
    return FineTuned(model=_as_base(model, base, learnable, moving), epoch_losses=tuple(losses))


def _epoch(
    job: Job,
    problem: Problem,
    loss_of: Loss,
    batches: Iterator[Any],
    clock: "_Clock",
    compute: Compute,
    on_step: Callable[[Progress], None] | None,
) -> float:
    """One pass over the frames; mean loss of the batches that have truth, 0 where none has."""
    epoch, taught = clock.epoch, []
    job.set_mode()
    for step, batch in enumerate(batches):
        rate = learning_rate(job.recipe, clock.step, clock.num_steps)
        value = 0.0
        if teaches(problem, batch):  # else not even momentum or weight decay may move anything
            with compute.training(job.model), own_stream(compute.device, job.recipe.seed, epoch, step):
                value = _step(job, problem, loss_of, batch, rate, compute)
            if not math.isfinite(value):
                raise DivergedError(
                    f"the loss became {value} in epoch {epoch + 1} at step {step + 1} with learning rate {rate:g}; "
                    f"lower the learning rate"
                )
            taught.append(value)
        clock.tick()
        if on_step is not None:
            on_step(clock.progress(epoch, value))
    if not taught:
        _LOGGER.warning("epoch %d has taught nothing: no frame has truth that counts", epoch + 1)
    return sum(taught) / max(1, len(taught))


def _step(
    job: Job,
    problem: Problem,
    loss_of: Loss,
    batch: Any,
    rate: float,
    compute: Compute,
) -> float:
    set_rate(job.optimizer, rate)
    job.optimizer.zero_grad(set_to_none=True)
    with compute.autocast():
        loss = loss_of(job.model, problem.to(batch, compute))
    value = float(loss.detach())
    if math.isfinite(value):
        if not loss.requires_grad:
            raise PlanError(
                f"fine-tuning: expected a loss that depends on one of {len(job.trained)} weights that are trained, "
                f"such as {next(iter(job.trained))}, but it depends on none; look for detach, no_grad or .data in the "
                f"network, or choose layers that its answers depend on"
            )
        torch.autograd.backward(loss)
        job.note_reached()
        clip_gradients(job.optimizer, job.recipe)
        job.optimizer.step()
    return value


def _report_idle(job: Job, layers: Sequence[Layer] | None) -> None:
    """Log the chosen layers that no gradient came to in an epoch; without layers, weights may take no part.

    Raises:
        PlanError: gradients came to no weight that is trained, though the loss had some.
    """
    if job.reached is None:
        return
    if not job.reached:
        raise PlanError(
            f"fine-tuning: expected gradients for {len(job.trained)} weights that are trained, such as "
            f"{next(iter(job.trained))}, but in the whole first epoch none came; the loss depends on tensors outside "
            f"of the network that is trained"
        )
    trained = {layer.name: job.trained.keys() & set(layer.weights) for layer in layers or ()}
    idle = [name for name, own in trained.items() if own and not own & job.reached]
    if idle:
        _LOGGER.warning(
            "chosen layers without any gradient in the first epoch: %s; the loss does not depend on them, so their "
            "values in the adaptor are the base's", ", ".join(idle),
        )  # fmt: skip


def _choose_weights(model: nn.Module, layers: Sequence[Layer] | None) -> dict[str, nn.Parameter]:
    """The parameters to train; all others are frozen."""
    wanted = None if layers is None else {name for layer in layers for name in layer.weights}
    trained = {}
    for name, parameter in model.named_parameters():
        chosen = parameter.requires_grad and (wanted is None or name in wanted)
        parameter.requires_grad_(chosen)
        if chosen and parameter.numel() > 0:
            trained[name] = parameter
    if not trained:
        whom = "in the network" if layers is None else f"among {len(layers)} chosen layers"
        raise PlanError(f"fine-tuning: expected at least one weight that can learn {whom}, but all are fixed")
    return trained


def _as_base(model: nn.Module, base: nn.Module, learnable: dict[str, bool], moving: frozenset[str]) -> nn.Module:
    """Back on the CPU, with the memory order, flags and buffers of the base it came from.

    Of the buffers only running statistics that were to move stay moved: counters take no part in
    inference, and what else a network keeps while it trains would be no part of an adaptor, so it is
    put back, which is logged. What the base has not, such as tables that a forward pass makes for the size
    of its frames, is left as it is, and logged as well.
    """
    model = model.to("cpu").to(memory_format=torch.contiguous_format).eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(learnable[name])
        parameter.grad = None
    before, put_back, made = dict(base.named_buffers(remove_duplicate=False)), [], []
    with torch.no_grad():
        for name, buffer in list(model.named_buffers(remove_duplicate=False)):
            if name in moving:
                continue
            if name not in before:
                made.append(name)
                continue
            old = before[name].detach().to("cpu", buffer.dtype)
            if buffer.is_floating_point() and not torch.equal(buffer, old):
                put_back.append(name)
            if buffer.shape == old.shape:
                buffer.copy_(old)
            else:  # grown for the size of the frames
                path, _, leaf = name.rpartition(".")
                model.get_submodule(path)._buffers[leaf] = old.clone()
    if put_back:
        _LOGGER.warning(
            "%s moved while training and %s as in the base again, because an adaptor holds weights only: the result "
            "is not quite what was trained", ", ".join(put_back), "is" if len(put_back) == 1 else "are",
        )  # fmt: skip
    if made:
        _LOGGER.warning(
            "%s: made while training, so the base has no values to go back to, and an adaptor holds none; the network "
            "must make them again from its weights and frames", ", ".join(made),
        )  # fmt: skip
    return model


class _Clock:
    """Counts steps and estimates the time left from those of this process."""

    def __init__(self, recipe: Recipe, steps_per_epoch: int, epochs_done: int) -> None:
        self.num_epochs = recipe.epochs
        self.steps_per_epoch = steps_per_epoch
        self.num_steps = recipe.epochs * steps_per_epoch
        self.first = self.step = epochs_done * steps_per_epoch
        self.started = time.monotonic()

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self.step // self.steps_per_epoch

    def tick(self) -> None:
        self.step += 1

    def progress(self, epoch: int, loss: float) -> Progress:
        per_step = (time.monotonic() - self.started) / max(1, self.step - self.first)
        return Progress(
            step=self.step,
            num_steps=self.num_steps,
            epoch=epoch + 1,
            num_epochs=self.num_epochs,
            loss=loss,
            seconds_left=per_step * (self.num_steps - self.step),
        )
