"""What differs between semantic segmentation, instance segmentation, classification, and tasks of users.

The training loop, the evaluation and the gearbox know only :class:`Problem`; none of them asks which
one it is. A plan names one of ours, or ``package.module:Class`` of its own.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from gearnn.datasets.frames import Sample
from gearnn.errors import PlanError
from gearnn.machine.compute import Compute
from gearnn.models.reference import importing_only, is_reference, resolve, trusted_packages
from gearnn.problems.answer import Answer

if TYPE_CHECKING:
    from gearnn.metrics import Interval

__all__ = [
    "Classifying",
    "Comparable",
    "Differentiable",
    "Drawable",
    "PartlyLabelled",
    "Problem",
    "Score",
    "SelfLabelling",
    "make_problem",
    "problem_class",
    "problem_names",
    "restore_problem",
    "teaches",
]

_OWN = {
    "classification": ("classification", "Classification"),
    "instance_segmentation": ("instances", "InstanceSegmentation"),
    "semantic_segmentation": ("segmentation", "SemanticSegmentation"),
}
"""Name -> module and class, which are imported when a plan names them."""


def __getattr__(name: str) -> Any:
    """The classes of our own problems, when somebody asks for them here."""
    for module, own in _OWN.values():
        if own == name:
            return getattr(import_module(f"gearnn.problems.{module}"), own)
    raise AttributeError(f"module 'gearnn.problems.problem' has no attribute {name!r}")


class Score(Protocol):
    """Collects predictions of a split and says how good they are."""

    primary_name: str

    def update(self, prediction: Any, truth: Any) -> None:
        """Count one frame."""
        ...

    @property
    def primary(self) -> float:
        """The figure by which solutions are compared; larger is better."""
        ...

    @property
    def figures(self) -> dict[str, float]:
        """Every figure of the split by its name, the primary one among them."""
        ...

    @property
    def per_class(self) -> list[float | None]:
        """The figure of every class; None where a class does not occur."""
        ...

    def interval(self, *, confidence: float = 0.95, num_draws: int = 1000, seed: int = 0) -> "Interval":
        """Bootstrap interval of the primary figure over frames."""
        ...


@runtime_checkable
class Comparable(Score, Protocol):
    """A score that can be compared with another one on the same frames, beyond chance."""

    def draws(self, *, num_draws: int = 1000, seed: int = 0) -> np.ndarray:
        """The primary figure of many draws of frames with replacement, float64 [num_draws].

        Two scores of equally many frames draw alike, so that :func:`gearnn.metrics.interval.gained` pairs them.
        """
        ...


class Problem(Protocol):
    """A task on frames.

    Attributes:
        truth: what it needs as the truth of a frame: ``classes`` of the pixels, ``instances``, the
            ``class`` of the frame; see :func:`gearnn.datasets.truth.with_truth`.
        takes_mixed_sizes: whether frames of several sizes fit into one batch.
    """

    truth: str

    @property
    def takes_mixed_sizes(self) -> bool: ...

    def describe(self) -> dict[str, Any]:
        """The problem as JSON values, with its ``name``; :func:`restore_problem` is the inverse."""
        ...

    def flip(self, sample: Sample) -> Sample:
        """The sample mirrored left to right, truth included."""
        ...

    def collate(self, samples: Sequence[Sample]) -> Any:
        """Samples of one frame size as a batch on the CPU."""
        ...

    def to(self, batch: Any, compute: Compute) -> Any:
        """The batch on the device, in its memory order."""
        ...

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The loss that the base was trained with, a scalar to differentiate."""
        ...

    def predict(self, model: nn.Module, batch: Any) -> list[Any]:
        """One prediction a frame, on the CPU."""
        ...

    def truths(self, batch: Any) -> list[Any]:
        """The truth of every frame, as :meth:`Score.update` takes it."""
        ...

    def new_score(self) -> Score:
        """An empty score."""
        ...

    def answer(self, prediction: Any) -> Answer:
        """A prediction for people and files."""
        ...


@runtime_checkable
class Differentiable(Problem, Protocol):
    """A problem whose loss can be differentiated down to the pixels of the frames (section 3.1).

    Attributes:
        loss_needs_training: whether its networks give a loss in training mode only.
    """

    loss_needs_training: bool

    def pixels(self, batch: Any) -> list[Tensor]:
        """The frames of a batch as the network receives them, float32 [3, H, W] in [0, 1], padding left out."""
        ...

    def with_pixels(self, batch: Any, pixels: Sequence[Tensor]) -> Any:
        """The batch with other pixels, of the same sizes; gradients flow to them."""
        ...


@runtime_checkable
class Classifying(Differentiable, Protocol):
    """A problem whose predictions can be compared with each other: classes of pixels or of frames."""

    def logits(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        """Logits [B, C, ...] and where they count, bool [B, ...]."""
        ...


@runtime_checkable
class SelfLabelling(Problem, Protocol):
    """A problem whose predictions can be taken as truth."""

    def labelled(self, batch: Any, predictions: Sequence[Any]) -> Any:
        """The batch with predictions, one a frame, as its truth."""
        ...


@runtime_checkable
class PartlyLabelled(Problem, Protocol):
    """A problem of which a whole batch may be without truth, such as frames of nothing but void pixels.

    Such a batch has a loss of exactly 0 and teaches nothing: a fine-tune takes no step on it.
    """

    def teaches(self, batch: Any) -> bool:
        """Whether a batch, on any device, has truth to learn from."""
        ...


@runtime_checkable
class Drawable(Problem, Protocol):
    """A problem whose predictions and truths can be drawn over a frame."""

    def draw(self, frame: np.ndarray, shown: Any) -> np.ndarray:
        """A frame, uint8 [h, w, 3], with a prediction or a truth over it, at the truth's size; uint8 [H, W, 3]."""
        ...


def teaches(problem: Problem, batch: Any) -> bool:
    """Whether a batch has truth to learn from; all have, unless the problem is :class:`PartlyLabelled`."""
    return not isinstance(problem, PartlyLabelled) or problem.teaches(batch)


_METHODS = ("describe", "flip", "collate", "to", "loss", "predict", "truths", "new_score", "answer")


def problem_names() -> tuple[str, ...]:
    """Names of our own problems."""
    return tuple(_OWN)


def problem_class(name: str) -> Any:
    """The class of a problem.

    Args:
        name: one of ours, or ``package.module:Class``: a dataclass that is a :class:`Problem`.

    Raises:
        PlanError: no such problem, or a class that lacks part of the protocol.
    """
    if name in _OWN:
        module, own = _OWN[name]
        return getattr(import_module(f"gearnn.problems.{module}"), own)
    if not is_reference(name):
        raise PlanError(f"unknown problem {name!r}; expected one of {', '.join(_OWN)}, or package.module:Class")
    found = resolve(name)
    if not isinstance(found, type) or not is_dataclass(found):
        raise PlanError(f"problem {name}: expected a dataclass with the methods of gearnn.problems.problem.Problem")
    missing = [part for part in (*_METHODS, "truth", "takes_mixed_sizes") if not hasattr(found, part)]
    if missing:
        raise PlanError(
            f"problem {name}: expected all of gearnn.problems.problem.Problem, but it lacks {', '.join(missing)}"
        )
    return found


def make_problem(name: str, facts: Mapping[str, Any], options: Mapping[str, Any]) -> Problem:
    """A problem from what a plan and its data say.

    Args:
        name: as for :func:`problem_class`.
        facts: ``num_classes``, ``ignore_index``, ``mean``, ``std``; a problem takes those that it has fields for.
        options: what the plan says of it besides; every one must be a field.

    Raises:
        PlanError: an option that the problem does not have, or a value that it refuses.
    """
    found = problem_class(name)
    known = [field.name for field in fields(found)]
    unknown = sorted(options.keys() - set(known) | options.keys() & facts.keys())
    if unknown:
        own = [field for field in known if field not in facts]
        raise PlanError(f"plan: problem: {name} has no {', '.join(unknown)}; expected {', '.join(own) or 'none'}")
    try:
        problem: Problem = found(**{k: v for k, v in facts.items() if k in known} | dict(options))
    except (TypeError, ValueError) as error:
        raise PlanError(f"plan: problem: {name}: {error}") from error
    return problem


def restore_problem(description: Mapping[str, Any], trust: Collection[str] | None = ()) -> Problem:
    """The problem that :meth:`Problem.describe` described.

    Args:
        description: what it gave.
        trust: packages whose code it may name, besides those in the environment's ``GEARNN_TRUST``; None
            for what this process has described itself.

    Raises:
        PlanError: no problem of that name, or facts that it cannot have.
        RegistryError: it names code that is not trusted.
    """
    facts = {k: tuple(v) if isinstance(v, list) else v for k, v in description.items() if k != "name"}
    if str(description.get("name")) in _OWN:
        _check_facts(facts)
    with importing_only(None if trust is None else trusted_packages(trust)):
        return make_problem(str(description.get("name")), {}, facts)


def _check_facts(facts: Mapping[str, Any]) -> None:
    """A plan's facts come from its data and were checked there; those of a description come as they were written."""
    expected: dict[str, tuple[str, Callable[[Any], bool]]] = {
        "num_classes": ("a number from 1", lambda value: type(value) is int and value >= 1),
        "ignore_index": ("a number or null", lambda value: value is None or type(value) is int),
        "mean": ("three numbers", _is_colour),
        "std": ("three numbers above 0", lambda value: _is_colour(value) and min(value) > 0),
    }
    for name in sorted(expected.keys() & facts.keys()):
        what, is_right = expected[name]
        if not is_right(facts[name]):
            raise PlanError(f"problem: expected {name} to be {what}, but got {facts[name]!r:.60}")


def _is_colour(value: Any) -> bool:
    """Whether it is a finite number for each of red, green and blue."""
    numbers = isinstance(value, tuple) and len(value) == 3 and all(type(v) in (int, float) for v in value)
    return numbers and all(map(math.isfinite, value))
