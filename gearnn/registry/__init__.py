"""The MLflow model registry: bases, and for every base and level a model with one version a retraining.

A base is the registered model ``<base>``, an adaptor ``<base>.<level slug>``, and the base with all of its
adaptors in use ``<base>.gearbox``. A version of an adaptor
names the exact version of its base in its tags, in its logged model's inputs, in the metadata of its
MLmodel file and in its description. Weights are safetensors; loading runs no pickled code, and no code that a
base names but from trusted packages. Names are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gearnn.registry.bundling import chosen_for, contents, register_gearbox
    from gearnn.registry.loading import load_adaptor, load_base, load_gearbox
    from gearnn.registry.promoting import (
        Promotion,
        archive,
        are_scored_alike,
        decided,
        is_rival,
        promote,
        promote_base,
        restore,
        without_adaptor,
    )
    from gearnn.registry.registering import register_adaptor, register_base
    from gearnn.registry.versions import (
        Version,
        adaptors,
        aliased,
        bases,
        by_alias,
        get_version,
        is_of,
        json_of,
        metrics,
    )

_HOMES = {
    "Promotion": "promoting",
    "Version": "versions",
    "adaptors": "versions",
    "aliased": "versions",
    "archive": "promoting",
    "are_scored_alike": "promoting",
    "bases": "versions",
    "by_alias": "versions",
    "chosen_for": "bundling",
    "contents": "bundling",
    "decided": "promoting",
    "get_version": "versions",
    "is_of": "versions",
    "is_rival": "promoting",
    "json_of": "versions",
    "load_adaptor": "loading",
    "load_base": "loading",
    "load_gearbox": "loading",
    "metrics": "versions",
    "promote": "promoting",
    "promote_base": "promoting",
    "register_adaptor": "registering",
    "register_base": "registering",
    "register_gearbox": "bundling",
    "restore": "promoting",
    "without_adaptor": "promoting",
}

__all__ = [
    "Promotion",
    "Version",
    "adaptors",
    "aliased",
    "archive",
    "are_scored_alike",
    "bases",
    "by_alias",
    "chosen_for",
    "contents",
    "decided",
    "get_version",
    "is_of",
    "is_rival",
    "json_of",
    "load_adaptor",
    "load_base",
    "load_gearbox",
    "metrics",
    "promote",
    "promote_base",
    "register_adaptor",
    "register_base",
    "register_gearbox",
    "restore",
    "without_adaptor",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gearnn.registry' has no attribute {name!r}")
    return getattr(import_module(f"gearnn.registry.{_HOMES[name]}"), name)
