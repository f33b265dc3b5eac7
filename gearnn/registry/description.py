"""How a base is built again besides its weights, as the registry keeps it."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from gearnn.errors import RegistryError
from gearnn.models import load_model
from gearnn.models.reference import check_trusted, importing_only, is_reference, references_in, trusted_packages
from gearnn.problems.problem import Problem, restore_problem

DESCRIPTION_FILE = "description.json"
_KINDS = {"network": str, "num_classes": int, "problem": dict, "kwargs": dict}
_NAMES = {str: "a text", int: "a number", dict: "an object"}


@dataclass(frozen=True, kw_only=True)
class BaseDescription:
    """How to build a base again, besides its weights.

    Attributes:
        network: name or function for :func:`gearnn.models.load_model`.
        num_classes: classes of its head.
        problem: what :func:`gearnn.problems.problem.restore_problem` takes.
        kwargs: of the network.
        trusted: packages whose code it may name; None where the user's own plan gave it.
    """

    network: str
    num_classes: int
    problem: Mapping[str, Any]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    trusted: frozenset[str] | None = field(default=None, compare=False)

    @classmethod
    def of(cls, network: str, num_classes: int, kwargs: Mapping[str, Any], problem: Problem) -> "BaseDescription":
        """The description of a network with its problem."""
        return cls(network=network, num_classes=num_classes, problem=problem.describe(), kwargs=kwargs)

    def to_json(self) -> dict[str, Any]:
        """JSON values; :func:`open_description` is the inverse."""
        facts = {"network": self.network, "num_classes": self.num_classes, "problem": self.problem}
        return facts | ({"kwargs": self.kwargs} if self.kwargs else {})

    def build(self, weights: Path) -> nn.Module:
        """The network with its weights."""
        with importing_only(self.trusted):
            return load_model(self.network, self.num_classes, weights, self.kwargs)

    def restore_problem(self) -> Problem:
        """The problem."""
        return restore_problem(self.problem, self.trusted)


def read_description(folder: Path) -> dict[str, Any]:
    """What the description in a version's folder says, as it stands there.

    Raises:
        RegistryError: there is none, or it is damaged.
    """
    path = folder / DESCRIPTION_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RegistryError(f"registry: {path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RegistryError(f"registry: {path}: expected a description as JSON, but got: {error}") from error
    if not isinstance(content, dict):
        raise RegistryError(f"registry: {path}: expected a description, but got {type(content).__name__}")
    return content


def open_description(folder: Path, trust: Collection[str] = ()) -> BaseDescription:
    """The description in a base's folder; code that it names is imported only from packages that are trusted.

    A base of a user's own module names that module, and building it runs the module's code. Whoever may
    write to the registry must not thereby choose what runs here. What the description names is looked at
    here, and again where it is imported (:func:`gearnn.models.reference.resolve`).

    Args:
        folder: with the files of a version.
        trust: packages or modules that may be imported; those in the environment's ``GEARNN_TRUST``,
            separated by commas, are trusted too.

    Raises:
        RegistryError: it is damaged, or names code from elsewhere.
    """
    content = read_description(folder)
    _check_kinds(content, f"registry: {folder / DESCRIPTION_FILE}")
    description = BaseDescription(**content, trusted=trusted_packages(trust))
    called = [description.network, str(description.problem.get("name"))]
    named = {name for name in called if is_reference(name)} | references_in([description.problem, description.kwargs])
    for name in sorted(named):
        check_trusted(name, trusted_packages(trust))
    return description


def _check_kinds(content: Mapping[str, Any], what: str) -> None:
    wrong = sorted((_KINDS.keys() - {"kwargs"} - content.keys()) | (content.keys() - _KINDS.keys()))
    if wrong:
        raise RegistryError(f"{what}: {wrong[0]!r} is {'unknown' if wrong[0] in content else 'missing'}")
    for name, value in content.items():
        if not isinstance(value, _KINDS[name]) or isinstance(value, bool):
            raise RegistryError(f"{what}: expected {name} to be {_NAMES[_KINDS[name]]}, but got {value!r:.60}")
