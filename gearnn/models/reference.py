"""Code that a plan or a registered base names: ``package.module:function``, found, called, and checked.

:func:`resolve` is the one place that imports a module by a name from outside. What a plan names is its
user's own; what a base from a registry names is imported within :func:`importing_only`, and :func:`resolve`
asks there whether it is trusted, however the name is spelled.
"""

import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from gearnn.errors import GearNNError, PlanError, RegistryError

_gate: ContextVar[frozenset[str] | None] = ContextVar("packages that may be imported", default=None)
"""None while names are the user's own; a set while they come from elsewhere."""


def is_reference(name: str) -> bool:
    """Whether a name is ``package.module:function``, not one that GearNN or torchvision knows."""
    return ":" in name


@contextmanager
def foreign_code(expected: str, error_type: type[GearNNError] = PlanError) -> Iterator[None]:
    """A context for code that is not ours: whatever it dies of becomes one line, our own errors pass.

    Args:
        expected: what was expected of which code, up to "it raised", where the error follows.
        error_type: of the error that is raised.
    """
    try:
        yield
    except GearNNError:
        raise
    except Exception as error:  # whatever foreign code dies of
        raise error_type(f"{expected} {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error


def trusted_packages(trust: Collection[str] = ()) -> frozenset[str]:
    """Packages and modules whose code may be imported for what others wrote: these, and those of ``GEARNN_TRUST``."""
    given = {trust} if isinstance(trust, str) else set(trust)
    named = {name.strip() for name in os.environ.get("GEARNN_TRUST", "").split(",")}
    return frozenset(name for name in given | named if name)


@contextmanager
def importing_only(packages: frozenset[str] | None) -> Iterator[None]:
    """A context in which :func:`resolve` imports nothing but from these packages and modules.

    Args:
        packages: see :func:`trusted_packages`; None changes nothing, for names that are the user's own.
    """
    held = _gate.set(_gate.get() if packages is None else packages)
    try:
        yield
    finally:
        _gate.reset(held)


def check_trusted(reference: str, packages: frozenset[str]) -> None:
    """Make sure that a name of code from elsewhere lies in a trusted package.

    Raises:
        RegistryError: it does not.
    """
    module = reference.partition(":")[0]
    if not any(module == package or module.startswith(f"{package}.") for package in packages):
        raise RegistryError(
            f"registry: the base names code, {reference}, and loading it runs that; "
            f"GEARNN_TRUST={module.partition('.')[0]} in the environment allows it"
        )


def resolve(reference: str) -> Callable[..., Any]:
    """The function or class that a reference names.

    Raises:
        PlanError: it cannot be imported, or there is nothing callable of that name in it.
        RegistryError: it comes from elsewhere, and is not of a package that is trusted.
    """
    if not _can_be_resolved(reference):
        raise PlanError(f"{reference!r}: expected package.module:function")
    allowed = _gate.get()
    if allowed is not None:
        check_trusted(reference, allowed)
    path, _, name = reference.partition(":")
    try:
        module = importlib.import_module(path)
    except Exception as error:  # whatever a foreign module dies of when it is imported
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        hint = "; is its package installed, or its folder in PYTHONPATH?" if isinstance(error, ImportError) else ""
        raise PlanError(f"{reference}: {path} cannot be imported: {reason}{_clash(path) or hint}") from error
    found = getattr(module, name, None)
    if not callable(found):
        raise PlanError(f"{reference}: expected a function or class {name} in {path}, but there is none{_clash(path)}")
    return found  # type: ignore[no-any-return]


def _clash(path: str) -> str:
    """What to do about a module whose name a package beside this one took first; nothing for all others."""
    package = path.partition(".")[0]
    found = [Path(place).resolve() for place in getattr(sys.modules.get(package), "__path__", ())]
    if package not in ("tasks", "flows", "infra") or Path(__file__).resolve().parents[2] / package not in found:
        return ""
    return f"; {package} is a package of GearNN's, so no module of yours can have that name: give it another one"


def build(reference: str, kwargs: Mapping[str, Any], num_classes: int | None = None) -> nn.Module:
    """The network that a user's function builds.

    Args:
        reference: ``package.module:function``.
        kwargs: arguments of the function.
        num_classes: passed as ``num_classes`` where the function takes such an argument.

    Raises:
        PlanError: the function raises, or what it returns is no network that can be adapted.
    """
    function = resolve(reference)
    arguments = dict(kwargs)
    if num_classes is not None and "num_classes" not in arguments and _takes(function, "num_classes"):
        arguments["num_classes"] = num_classes
    with foreign_code(f"{reference}({_told(arguments)}): it raised"):
        model = function(**arguments)
    if not isinstance(model, nn.Module):
        raise PlanError(f"{reference}: expected it to return a torch.nn.Module, but got {type(model).__name__}")
    lazy = [name for name, parameter in model.named_parameters() if is_lazy(parameter)]
    if lazy:
        raise PlanError(f"{reference}: expected parameters with shapes, but {lazy[0]} is lazy; run it once on a frame")
    return model


def references_in(value: Any) -> set[str]:
    """All strings in JSON values that name code, so that loading them would import it.

    >>> sorted(references_in({"network": "mask_rcnn", "kwargs": {"backbone": "timm:create_model", "sizes": [1]}}))
    ['timm:create_model']
    """
    if isinstance(value, str):
        return {value} if _can_be_resolved(value) else set()
    if isinstance(value, Mapping):
        return set().union(*map(references_in, [*value.keys(), *value.values()]))
    return set().union(*map(references_in, value)) if isinstance(value, list | tuple) else set()


def source_digest(reference: str) -> str:
    """sha256 of the file in which a reference's function or class is looked up; what it imports is not covered.

    Raises:
        PlanError: as for :func:`resolve`.
    """
    resolve(reference)
    file = getattr(sys.modules[reference.partition(":")[0]], "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""


def _can_be_resolved(name: str) -> bool:
    """Whether :func:`resolve` would try to import something for it."""
    path, _, attribute = name.partition(":")
    return bool(path) and attribute.isidentifier()


def _takes(function: Callable[..., Any], name: str) -> bool:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some built-in classes have none
        return False
    return name in parameters or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


def _told(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())
