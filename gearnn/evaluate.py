"""The score of a network on frames of one distortion level."""

from typing import Any

from torch import inference_mode, nn
from torch.utils.data import DataLoader

from gearnn.finetune_batches import Samples, reading_ahead
from gearnn.machine.compute import Compute
from gearnn.problems.problem import Problem, Score


@inference_mode()
def evaluate(
    model: nn.Module,
    samples: Samples,
    problem: Problem,
    *,
    batch_size: int = 8,
    compute: Compute | None = None,
    num_workers: int = 0,
) -> Score:
    """Run a network over every frame and score its predictions over the whole split.

    Args:
        model: the network; it stays as and where it is. What runs is a copy that shares its weights, or the network
            itself where it cannot be copied, see :meth:`gearnn.machine.compute.Compute.reading`.
        samples: frames with truth, in order; a batch holds frames of one size.
        problem: how to predict and to score.
        batch_size: frames a forward pass.
        compute: device and precision; None chooses.
        num_workers: processes that read frames ahead.

    Raises:
        PlanError: the network cannot be copied and does not lie on the device.
    """
    compute = compute or Compute.resolve()
    score = problem.new_score()
    loader: DataLoader[Any] = DataLoader(
        samples,  # type: ignore[arg-type]
        batch_size=batch_size,
        collate_fn=problem.collate,
        **reading_ahead(num_workers),
    )
    with compute.reading(model) as network:
        network.eval()
        for batch in loader:
            with compute.autocast():
                predictions = problem.predict(network, problem.to(batch, compute))
            for prediction, truth in zip(predictions, problem.truths(batch), strict=True):
                score.update(prediction, truth)
    return score
