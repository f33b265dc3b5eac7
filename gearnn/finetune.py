"""f_q: fine-tuning a network on frames of one distortion level (Algorithm 1, lines 2 and 8).

One loop serves the whole network and chosen layers alike. Every random choice comes from generators
seeded by the recipe, so the same recipe gives the same weights, whatever else the process does.
"""

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from gearnn.compute import Compute
from gearnn.datasets.frames import Sample
from gearnn.errors import DataError, DivergedError
from gearnn.files import written_whole
from gearnn.layers import BatchNormStatistics, Layer, batchnorms, fingerprint, statistics_of
from gearnn.problem import Problem
from gearnn.randomness import own_stream
from gearnn.recipe import Recipe, clip_gradients, learning_rate, make_optimizer, set_rate


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
        epoch_losses: mean training loss of every epoch.
    """

    model: nn.Module
    epoch_losses: tuple[float, ...]


class Samples(Protocol):
    """Training frames with their truth, such as :class:`gearnn.datasets.DistortedDataset`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


@runtime_checkable
class Variants(Samples, Protocol):
    """Training frames of which each exists in several variants, such as one a distortion level."""

    def draw(self, frames: Sequence[int], generator: torch.Generator) -> list[int]:
        """Indices of one variant of every frame of a batch."""
        ...


Loss = Callable[[nn.Module, Any], Tensor]
"""What is minimised: called with the network and a batch, gives a scalar."""


def finetune(
    base: nn.Module,
    samples: Samples,
    problem: Problem,
    recipe: Recipe,
    *,
    layers: Sequence[Layer] | None = None,
    batchnorm_statistics: BatchNormStatistics = "frozen",
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
        batchnorm_statistics: which running statistics move: ``frozen`` none, ``selected`` those of
            the layers that are trained, ``all`` every one.
        loss: what to minimise; None takes the problem's loss.
        compute: device and precision; None chooses.
        checkpoint: file that holds the state after each epoch. Where it exists and was written for
            the same base, layers and recipe, training goes on from there, with the result that an
            unbroken run would have. It stays at the end; remove it once the result is stored, and
            use another file for other frames.
        on_step: called after every step.
        on_checkpoint: called with the file ``checkpoint`` after every epoch, to copy it to a safer place.

    Returns:
        The fine-tuned network. Values outside the trained layers and statistics are bit for bit
        those of the base.

    Raises:
        DivergedError: the loss became NaN or infinite.
        DataError: there are no frames.
    """
    if len(samples) == 0:
        raise DataError("fine-tuning: expected at least one training frame, but got none")
    compute = compute or Compute.resolve()
    learnable = {name: p.requires_grad for name, p in base.named_parameters()}
    model = compute.place(copy.deepcopy(base))
    moving = _moving_batchnorms(model, layers, batchnorm_statistics)
    trained = _choose_weights(model, layers)
    optimizer = make_optimizer(list(trained.values()), recipe)
    job = _Job(model, optimizer, trained, recipe, moving, checkpoint)
    losses = job.resume()
    steps_per_epoch = math.ceil(len(samples) / recipe.batch_size)
    clock = _Clock(recipe, steps_per_epoch, first=len(losses) * steps_per_epoch)
    for epoch in range(len(losses), recipe.epochs):
        job.set_mode()
        total = 0.0
        for step, batch in enumerate(_batches(samples, problem, recipe, epoch)):
            rate = learning_rate(recipe, clock.step, clock.num_steps)
            with compute.training(model), own_stream(compute.device, recipe.seed, epoch, step):
                value = _step(job, problem, loss or problem.loss, batch, rate, compute)
            if not math.isfinite(value):
                raise DivergedError(
                    f"the loss became {value} in epoch {epoch + 1} at step {step + 1} with learning rate {rate:g}; "
                    f"lower the learning rate"
                )
            total += value
            clock.tick()
            if on_step is not None:
                on_step(clock.progress(epoch, value))
        losses.append(total / steps_per_epoch)
        job.save(losses)
        if on_checkpoint is not None and checkpoint is not None:
            on_checkpoint(checkpoint)
    return FineTuned(model=_as_base(model, base, learnable, moving), epoch_losses=tuple(losses))


def _step(
    job: "_Job",
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
        torch.autograd.backward(loss)
        clip_gradients(job.optimizer, job.recipe)
        job.optimizer.step()
    return value


def _choose_weights(model: nn.Module, layers: Sequence[Layer] | None) -> dict[str, nn.Parameter]:
    """The parameters to train; all others are frozen."""
    wanted = None if layers is None else {name for layer in layers for name in layer.weights}
    trained = {}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and (wanted is None or name in wanted))
        if parameter.requires_grad:
            trained[name] = parameter
    return trained


def _moving_batchnorms(
    model: nn.Module, layers: Sequence[Layer] | None, policy: BatchNormStatistics
) -> dict[str, nn.Module]:
    """BatchNorm modules whose running statistics move."""
    if policy == "frozen":
        return {}
    chosen = layers is not None and policy == "selected"
    carried = {name for layer in layers or () for name in layer.statistics} if chosen else set(statistics_of(model))
    return {path: module for path, module in batchnorms(model) if f"{path}.running_mean" in carried}


def reading_ahead(num_workers: int) -> dict[str, Any]:
    """Arguments of a DataLoader; its workers are started afresh, because forking a process with threads is unsafe."""
    return {"num_workers": num_workers, "multiprocessing_context": "spawn" if num_workers else None}


class _Augmented(Dataset[Sample]):
    """Samples by (index, mirrored), so that every choice is made outside of worker processes."""

    def __init__(self, samples: Samples, problem: Problem) -> None:
        self.samples, self.problem = samples, problem

    def __getitem__(self, choice: tuple[int, bool]) -> Sample:
        index, mirrored = choice
        sample = self.samples[index]
        return self.problem.flip(sample) if mirrored else sample


def _batches(samples: Samples, problem: Problem, recipe: Recipe, epoch: int) -> Iterator[Any]:
    """Batches of one epoch; order and flips depend on seed and epoch only, not on earlier epochs."""
    seed = hashlib.sha256(f"{recipe.seed} {epoch}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(seed[:6], "big"))
    order = torch.randperm(len(samples), generator=generator).tolist()
    mirrored = (torch.rand(len(samples), generator=generator) < recipe.flip).tolist()
    size = recipe.batch_size
    batches = [order[i : i + size] for i in range(0, len(order), size)]
    if isinstance(samples, Variants):  # drawn last, so that frames, order and flips are those of every other fine-tune
        batches = [samples.draw(batch, generator) for batch in batches]
    choices = list(zip(chain.from_iterable(batches), mirrored, strict=True))
    return iter(
        DataLoader(
            _Augmented(samples, problem),
            batch_sampler=[choices[i : i + size] for i in range(0, len(choices), size)],
            collate_fn=problem.collate,
            **reading_ahead(recipe.num_workers),
            generator=generator,
        )
    )


def _as_base(model: nn.Module, base: nn.Module, learnable: dict[str, bool], moving: dict[str, nn.Module]) -> nn.Module:
    """Back on the CPU, with the memory order, flags and buffers of the base it came from.

    Of the buffers only running statistics that were to move stay moved: counters take no part in
    inference, and what else a network keeps while it trains would be no part of an adaptor.
    """
    model = model.to("cpu").to(memory_format=torch.contiguous_format).eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(learnable[name])
        parameter.grad = None
    before = dict(base.named_buffers(remove_duplicate=False))
    for name, buffer in model.named_buffers(remove_duplicate=False):
        if not (buffer.is_floating_point() and name.rpartition(".")[0] in moving):
            buffer.copy_(before[name])
    return model


class _Job:
    """A fine-tune under way: its training mode and its checkpoint file."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        trained: dict[str, nn.Parameter],
        recipe: Recipe,
        moving: dict[str, nn.Module],
        checkpoint: Path | None,
    ) -> None:
        self.model, self.optimizer, self.recipe = model, optimizer, recipe
        self.moving, self.checkpoint = moving, checkpoint
        self.tensors: dict[str, Tensor] = {name: p.data for name, p in trained.items()}
        self.tensors |= {f"{path}.{n}": b for path, module in moving.items() for n, b in module.named_buffers()}
        start = fingerprint(model) if checkpoint is not None else ""
        identity = {"base": start, "recipe": asdict(recipe), "tensors": sorted(self.tensors)}
        self.identity = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def set_mode(self) -> None:
        """Training mode, but running statistics move only where the policy says so."""
        self.model.train()
        for path, module in batchnorms(self.model):
            module.train(path in self.moving)

    def resume(self) -> list[float]:
        """Take up the state of an earlier run of the same job; mean losses of its epochs."""
        if self.checkpoint is None or not self.checkpoint.is_file():
            return []
        try:
            state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        except Exception:  # a damaged checkpoint only costs the epochs that it held
            return []
        if state.get("identity") != self.identity:
            return []
        for name, tensor in self.tensors.items():
            tensor.copy_(state["tensors"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        return list(state["losses"])

    def save(self, losses: list[float]) -> None:
        """Keep the state after an epoch; a crash while writing leaves the earlier one whole."""
        if self.checkpoint is None:
            return
        state = {
            "identity": self.identity,
            "tensors": self.tensors,
            "optimizer": self.optimizer.state_dict(),
            "losses": losses,
        }
        with written_whole(self.checkpoint) as file:
            torch.save(state, file)


class _Clock:
    """Counts steps and estimates the time left from those of this process."""

    def __init__(self, recipe: Recipe, steps_per_epoch: int, first: int) -> None:
        self.num_epochs = recipe.epochs
        self.num_steps = recipe.epochs * steps_per_epoch
        self.first = self.step = first
        self.started = time.monotonic()

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
