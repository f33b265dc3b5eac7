"""How a base is built again besides its weights, as the registry keeps it."""

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from gearnn.errors import RegistryError
from gearnn.models import load_model
from gearnn.models.reference import references_in
from gearnn.problem import Problem

DESCRIPTION_FILE = "description.json"


@dataclass(frozen=True, kw_only=True)
class BaseDescription:
    """How to build a base again, besides its weights.

    Attributes:
        network: name or function for :func:`gearnn.models.load_model`.
        num_classes: classes of its head.
        problem: what :func:`gearnn.problem.restore_problem` takes.
        kwargs: of the network.
    """

    network: str
    num_classes: int
    problem: Mapping[str, Any]
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, network: str, num_classes: int, kwargs: Mapping[str, Any], problem: Problem) -> "BaseDescription":
        """The description of a network with its problem."""
        return cls(network=network, num_classes=num_classes, problem=problem.describe(), kwargs=kwargs)

    def to_json(self) -> dict[str, Any]:
        """JSON values; the inverse is the constructor."""
        return {name: value for name, value in asdict(self).items() if name != "kwargs" or value}

    def build(self, weights: Path) -> nn.Module:
        """The network with its weights."""
        return load_model(self.network, self.num_classes, weights, self.kwargs)


def open_description(folder: Path, trust: Collection[str] = ()) -> BaseDescription:
    """The description in a base's folder; code that it names is imported only from packages that are trusted.

    A base of a user's own module names that module, and building it runs the module's code. Whoever may
    write to the registry must not thereby choose what runs here.

    Args:
        folder: with the files of a version.
        trust: packages or modules that may be imported; those in the environment's ``GEARNN_TRUST``,
            separated by commas, are trusted too.

    Raises:
        RegistryError: it names code from elsewhere.
    """
    description = BaseDescription(**json.loads((folder / DESCRIPTION_FILE).read_text()))
    trusted = {*trust, *filter(None, os.environ.get("GEARNN_TRUST", "").split(","))}
    for name in sorted(references_in(asdict(description))):
        module = name.partition(":")[0]
        if not any(module == package or module.startswith(f"{package}.") for package in trusted):
            raise RegistryError(
                f"registry: the base names code, {name}, and loading it runs that; "
                f"GEARNN_TRUST={module.partition('.')[0]} in the environment allows it"
            )
    return description
