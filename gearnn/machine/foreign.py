"""What functions inside a copied network still refer to in the network that it was copied from.

``copy.deepcopy`` copies no function: what one keeps in its closure, in its defaults or by a weak reference is
the original's. A hook that writes to the original leaves the copy's answers and gradients wrong, in silence.
Bound methods, and partials of them, are bound to the copy and are right.
"""

import dis
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, partial
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

from gearnn.errors import PlanError

_DEPTH = 6
"""How far containers and objects are followed below a module's attribute."""

_ATOMS = (type(None), bool, int, float, complex, str, bytes, type, ModuleType)
_WRITABLE = (dict, list, set, deque)
_FUNCTIONS = (FunctionType, BuiltinFunctionType, weakref.ref)


def check_nothing_foreign(copied: nn.Module, theirs: Mapping[int, object]) -> None:
    """Make sure that no function in a copy refers to what only the original has.

    Looked at are hooks and attributes of modules, also inside of containers, objects and partials; and in what
    they keep, modules, tensors, and the lists, dictionaries and sets that a module of the original holds too.

    Args:
        copied: the copy.
        theirs: what the original :func:`held` before it was copied.

    Raises:
        PlanError: one does; names the module and the hook or attribute.
    """
    own = held(copied)
    foreign = {key: value for key, value in theirs.items() if key not in own}
    modules = dict(copied.named_modules())
    known = {id(module) for module in modules.values()}
    for path, module in modules.items():
        for name, value in vars(module).items():
            function = _referring(value, foreign, known)
            if function is not None:
                raise PlanError(
                    f"network: expected hooks and attributes that refer to nothing of the network but what they are "
                    f"called with, but {_named(name)} of {path or 'the network'} keeps a part of it in "
                    f"{getattr(function, '__qualname__', type(function).__name__)}, and a copy would share that with "
                    f"the original; make it a method of a module"
                )


def held(model: nn.Module) -> dict[int, object]:
    """By ``id``: modules and tensors of a network however it keeps them, and what its modules hold to write to."""
    found: dict[int, object] = {}
    seen: dict[tuple[int, bool], object] = {}
    todo: list[tuple[object, bool, int]] = [(model, True, 0)]
    while todo:
        value, directly, depth = todo.pop()
        if isinstance(value, _ATOMS) or (id(value), directly) in seen or depth > _DEPTH:
            continue
        seen[id(value), directly] = value
        is_module, writable = isinstance(value, nn.Module), isinstance(value, _WRITABLE)
        if is_module or isinstance(value, Tensor) or (directly and writable):
            found[id(value)] = value
        directly = is_module or (directly and isinstance(value, (*_WRITABLE, tuple, partial)))
        todo += [(part, directly, 1 if is_module else depth + 1) for part in parts_of(value)]
    return found


def _referring(attribute: object, foreign: Mapping[int, object], known: set[int]) -> object | None:
    """The function below a module's attribute that keeps something foreign; None where all is right."""
    seen: dict[tuple[int, bool], object] = {}
    todo: list[tuple[object, object | None, int]] = [(attribute, None, 0)]
    while todo:
        value, function, depth = todo.pop()
        kept = function is not None
        if kept and _is_foreign(value, foreign):
            return function
        if isinstance(value, _ATOMS) or (id(value), kept) in seen or depth > _DEPTH:
            continue
        seen[id(value), kept] = value
        if isinstance(value, nn.Module) and (kept or id(value) in known):
            continue  # it is looked at under its own name, or is no part of the network
        if isinstance(value, _FUNCTIONS):
            todo += [(part, value, depth + 1) for part in _kept(value, foreign)]
        else:
            todo += [(part, function, depth + 1) for part in parts_of(value)]
    return None


def _is_foreign(value: object, foreign: Mapping[int, object]) -> bool:
    """Whether it is a part of the original, or a network of which the original is a part."""
    if id(value) in foreign:
        return True
    return isinstance(value, nn.Module) and any(id(module) in foreign for module in value.modules())


def parts_of(value: object) -> Iterable[object]:
    """What an object holds and ``copy.deepcopy`` copies with it."""
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return list(value)
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, (Tensor, *_FUNCTIONS)):
        return []
    attributes = getattr(value, "__dict__", None)
    return list(attributes.values()) if isinstance(attributes, dict) else []


def _kept(function: Any, foreign: Mapping[int, object]) -> Iterator[object]:
    """What a function refers to; of its globals only what is foreign, or bound to it."""
    if isinstance(function, weakref.ref):
        yield function()
    elif isinstance(function, BuiltinFunctionType):
        yield function.__self__
    else:
        yield from map(_content, function.__closure__ or ())
        yield from function.__defaults__ or ()
        yield from (function.__kwdefaults__ or {}).values()
        yield from vars(function).values()
        for value in map(function.__globals__.get, _globals_of(function.__code__)):
            if isinstance(value, (MethodType, partial)) or _is_foreign(value, foreign):
                yield value


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


@cache
def _globals_of(code: CodeType) -> frozenset[str]:
    """Names of the globals that a function reads, functions inside of it included."""
    names = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    inner = (_globals_of(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return frozenset(names).union(*inner)


def _named(attribute: str) -> str:
    """Such as ``a forward pre hook`` for ``_forward_pre_hooks``."""
    if attribute.startswith("_") and attribute.endswith("_hooks"):
        return f"a {attribute.strip('_').removesuffix('s').replace('_', ' ')}"
    return f"attribute {attribute}"
