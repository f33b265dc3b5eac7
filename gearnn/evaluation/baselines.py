"""What GearNN is measured against besides whole networks (section 4.2, and what a sceptic asks for).

The base, the full fine-tunes and the pristine control need no code of their own: they are the base and
:func:`gearnn.finetune.finetune`. Mixed training is that on :class:`gearnn.datasets.mixture.Mixture`,
stability training is that with :func:`gearnn.objectives.stability_loss`. Layers chosen without asking Eq. 2 are in
:mod:`gearnn.portfolio`. Here is the rest: BatchNorm statistics without any training.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader

from gearnn.errors import PlanError
from gearnn.finetune_batches import Samples, reading_ahead
from gearnn.layers import batchnorms, check_finite, statistics_of
from gearnn.machine.compute import Compute, own_copy
from gearnn.problems.problem import Problem


@torch.no_grad()
def reestimated(
    base: nn.Module,
    samples: Samples,
    problem: Problem,
    *,
    batch_size: int = 8,
    compute: Compute | None = None,
    num_workers: int = 0,
) -> nn.Module:
    """The base with BatchNorm statistics of other frames, no weight changed (the cheapest adaptation).

    Args:
        base: stays as it is.
        samples: training frames of one level; every one is used once, in order.
        problem: how to batch and run.
        batch_size: frames whose statistics are taken together; all batches count alike.
        compute: device and precision; None chooses.
        num_workers: processes that read frames ahead.

    Raises:
        PlanError: the network has no running statistics to estimate.
        CheckpointError: an estimate is NaN or infinite.
    """
    compute = compute or Compute.resolve()
    moving = statistics_of(base)
    model = compute.place(own_copy(base).float()).eval()
    estimating = [module for path, module in batchnorms(model) if f"{path}.running_mean" in moving]
    if not estimating:
        raise PlanError("BatchNorm statistics: expected a network with some that can move, but it has none")
    momenta = [module.momentum for module in estimating]
    for module in estimating:
        module.reset_running_stats()  # type: ignore[operator]
        module.momentum = None  # type: ignore[assignment]  # the mean over all batches
        module.train()
    loader: DataLoader[object] = DataLoader(
        samples,  # type: ignore[arg-type]
        batch_size=batch_size,
        collate_fn=problem.collate,
        **reading_ahead(num_workers),
    )
    for batch in loader:
        with compute.autocast():
            problem.predict(model, problem.to(batch, compute))
    for module, momentum in zip(estimating, momenta, strict=True):
        module.momentum = momentum
    counters = dict(base.named_buffers())
    for name, buffer in model.named_buffers():
        if not buffer.is_floating_point():
            buffer.copy_(counters[name])
    check_finite(model, "BatchNorm statistics")
    return model.to("cpu").to(memory_format=torch.contiguous_format).eval()
