"""What fine-tunes learn from: labels, or what the base says of the same frame undistorted, or both.

A distortion that can be simulated makes its own pairs of frames, so no frame needs a label: the base's answer on the
undistorted frame is the target for the distorted one. Problems that classify pixels or frames follow the base's
probabilities (cross-entropy with soft targets); others take its answers as truth, those it is sure of.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gearnn.adaptor import Adaptor
from gearnn.datasets.frames import Sample
from gearnn.errors import PlanError
from gearnn.finetune_batches import Samples
from gearnn.folding import check_folded
from gearnn.machine.compute import Compute
from gearnn.objectives import cross_entropy, loss_and_logits
from gearnn.problems.problem import Classifying, Problem, SelfLabelling
from gearnn.recipe import Target

SHARES: dict[Target, float] = {"labels": 0.0, "base": 1.0, "both": 0.5}
"""Share of the loss that follows the base."""


@dataclass(frozen=True)
class Pair:
    """A frame at a level, and the same frame undistorted."""

    distorted: Sample
    undistorted: Sample

    @property
    def image(self) -> Any:
        """The frame at the level."""
        return self.distorted.image


class Pairs(Samples):
    """Frames at a level beside the undistorted ones.

    Args:
        distorted: frames of a level.
        undistorted: the same frames, in the same order.
    """

    def __init__(self, distorted: Samples, undistorted: Samples) -> None:
        assert len(distorted) == len(undistorted), "the same frames"
        self.distorted, self.undistorted = distorted, undistorted

    def __len__(self) -> int:
        return len(self.distorted)

    def __getitem__(self, index: int) -> Any:
        """A :class:`Pair`."""
        return Pair(self.distorted[index], self.undistorted[index])


def scored_by(problem: Problem) -> Problem:
    """The problem that scores what a problem trains: the same one, or the one whose base is followed."""
    return problem.problem if isinstance(problem, FollowsBase) else problem


def try_folded(base: nn.Module, tuned: nn.Module, adaptor: Adaptor, samples: Samples, problem: Problem) -> None:
    """Run the base with an adaptor beside the network that was trained, on the first frame; see `check_folded`.

    Raises:
        AdaptorError: folded statistics do not give what was trained.
    """
    if adaptor.batchnorm_statistics != "folded" or next(base.parameters()).dtype != torch.float32:
        return
    sample, scoring = samples[0], scored_by(problem)
    batch = scoring.collate([sample.distorted if isinstance(sample, Pair) else sample])
    check_folded(adaptor.apply(base), tuned, lambda network: scoring.predict(network, batch))


class FollowsBase:
    """A problem whose loss follows the base; its samples are :class:`Pairs`.

    Args:
        problem: of the base.
        base: what is followed; it stays as and where it is.
        target: ``base``, or ``both`` of base and labels.
        compute: device and precision.

    Raises:
        PlanError: answers of this problem can be neither followed nor taken as truth.
    """

    def __init__(self, problem: Problem, base: nn.Module, target: Target, compute: Compute) -> None:
        if not isinstance(problem, Classifying | SelfLabelling):
            name = problem.describe().get("name")
            raise PlanError(
                f"plan: finetune.target: expected labels, because {name} has neither logits nor labelled(batch, "
                f"predictions), but got {target}"
            )
        self.problem, self.target, self.compute = problem, target, compute
        self.share = SHARES[target]
        self.base = compute.lent(base).eval()
        self.truth, self.takes_mixed_sizes = problem.truth, problem.takes_mixed_sizes

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "problem":
            raise AttributeError(name)
        return getattr(self.problem, name)

    def __getstate__(self) -> dict[str, Any]:
        """Processes that read frames need no network."""
        return self.__dict__ | {"base": None}

    def describe(self) -> dict[str, Any]:
        """The problem's description, with the target."""
        return {**self.problem.describe(), "target": self.target}

    def flip(self, sample: Any) -> Any:
        """Both frames of a :class:`Pair` mirrored."""
        return Pair(self.problem.flip(sample.distorted), self.problem.flip(sample.undistorted))

    def collate(self, samples: Sequence[Any]) -> tuple[Any, Any]:
        """A batch of frames at the level, and one of the same frames undistorted."""
        collate: Callable[[list[Sample]], Any] = self.problem.collate
        return collate([pair.distorted for pair in samples]), collate([pair.undistorted for pair in samples])

    def to(self, batch: tuple[Any, Any], compute: Compute) -> tuple[Any, Any]:
        """Both batches on the device."""
        return self.problem.to(batch[0], compute), self.problem.to(batch[1], compute)

    def teaches(self, batch: tuple[Any, Any]) -> bool:
        """Always: the base has an answer to every frame."""
        return True

    def loss(self, model: nn.Module, batch: tuple[Any, Any]) -> Tensor:
        """The share of the base's answers, and for the rest the problem's own loss."""
        distorted, undistorted = batch
        if isinstance(self.problem, Classifying):
            return self._followed(self.problem, model, distorted, undistorted)
        with torch.no_grad():
            predictions = self.problem.predict(self.base, undistorted)
        loss = self.share * self.problem.loss(model, self.problem.labelled(distorted, predictions))
        return loss if self.share == 1.0 else loss + (1.0 - self.share) * self.problem.loss(model, distorted)

    def _followed(self, problem: Classifying, model: nn.Module, distorted: Any, undistorted: Any) -> Tensor:
        with torch.no_grad():
            wanted, _ = problem.logits(self.base, undistorted)
        if self.share == 1.0:
            own: Tensor | float = 0.0
            logits, _ = problem.logits(model, distorted)
        else:
            own, logits, _ = loss_and_logits(problem, model, distorted)
        if logits.shape != wanted.shape:  # a frame that arrives smaller, and has no label to be scaled to
            logits = F.interpolate(logits.float(), size=wanted.shape[2:], mode="bilinear", align_corners=False)
        everywhere = torch.ones_like(wanted[:, 0], dtype=torch.bool)
        return (1.0 - self.share) * own + self.share * cross_entropy(logits, wanted, everywhere)
