"""Which kinds of distortion there are: the library's own, and those of installed packages."""

import difflib
from collections.abc import Mapping
from functools import cache
from importlib import import_module, metadata
from types import MappingProxyType

from gearnn.distortions.kinds import Kind
from gearnn.errors import LevelError

ENTRY_POINTS = "gearnn.distortions"
"""Group of entry points: each names a kind and points at its :class:`gearnn.distortions.Kind`."""

_OWN = ("brightness", "h264", "jpeg", "resolution")
"""Kinds of this package; each is the ``KIND`` of the module of its name, imported when a level names it."""


def kind_of(name: str) -> Kind:
    """The kind of this name.

    Raises:
        LevelError: there is no such kind, or the package that brings it is broken.
    """
    if name in _OWN:
        own: Kind = import_module(f"gearnn.distortions.{name}").KIND
        return own
    points = _installed()
    if name not in points:
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f", did you mean {near[0]}" if near else ""
        raise LevelError(
            f"unknown distortion {name!r}{hint}; expected one of {', '.join(names())}, "
            f"or the package that brings it to be installed"
        )
    return _load(name)


def kinds() -> dict[str, Kind]:
    """Every kind that can be used, by name.

    Raises:
        LevelError: a package that brings a kind is broken.
    """
    return {name: kind_of(name) for name in names()}


def names() -> list[str]:
    """Names of all kinds, whether or not their packages can be loaded."""
    return sorted({*_OWN, *_installed()})


@cache
def _installed() -> Mapping[str, metadata.EntryPoint]:
    points = {point.name: point for point in metadata.entry_points(group=ENTRY_POINTS) if point.name not in _OWN}
    return MappingProxyType(points)


@cache
def _load(name: str) -> Kind:
    point = _installed()[name]
    package = point.dist.name if point.dist is not None else point.value
    try:
        kind = point.load()
    except Exception as error:  # whatever a foreign package dies of when it is imported
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise LevelError(f"distortion {name!r}: the package {package} cannot be loaded: {reason}") from error
    if not isinstance(kind, Kind) or kind.name != name:
        raise LevelError(f"distortion {name!r}: expected {package} to bring a Kind named {name!r}, but got {kind!r}")
    return kind
