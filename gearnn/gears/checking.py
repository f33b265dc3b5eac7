"""Once, when a gearbox is built: its gears answer as plain deep copies with the adaptors' tensors do.

Gears are made once more on a copy of the base, with other values in every tensor that any level adapts, and
run beside a plain deep copy into which the same values were written. What every module gives is compared,
so that networks whose answers are classes, or that find nothing, can be distinguished, too. The base and the
gears themselves never run here.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from gearnn.adaptor import Adaptor
from gearnn.errors import GearError
from gearnn.gears.examples import Example
from gearnn.gears.holding import Gears
from gearnn.gears.nested import leaves
from gearnn.layers import stored_tensors
from gearnn.levels import DistortionLevel
from gearnn.machine.compute import own_copy
from gearnn.machine.foreign import parts_of
from gearnn.machine.sharing import deep_copy, under_first_names

Adaptors = Mapping[DistortionLevel, Adaptor]
Make = Callable[[nn.Module, Adaptors, Sequence[str]], Gears]
"""Makes gears of a base; the names are those of tensors that forward passes change."""

_OFF = {"cpu": 1e-5}
"""Largest difference, as a share of the largest value: rounding; the values that are tried change outputs by more."""
_OFF_ELSEWHERE = 5e-3  # other devices may take other kernels for other addresses, and TF32
_NEIGHBOURS = 0.05
"""The same for a frame alone and beside another, which convolutions of other shapes round otherwise."""
_SAMPLED = 512
_OF_CLASSES = 8


@dataclass(frozen=True)
class Seen:
    """What a module gave, to another one or as its output.

    Attributes:
        place: which call it was, before or behind.
        module: where the module stands, and its class.
        outputs: shapes and evenly spread values of tensors; other values as they are.
    """

    place: str
    module: str
    outputs: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A batch that a network takes, and what a plain deep copy of the network gave.

    Attributes:
        example: the batch.
        seen: of every call of a module, in order.
        output: of the network.
        moving: names of tensors that the forward pass changed.
    """

    example: Example
    seen: Sequence[Seen]
    output: Any
    moving: tuple[str, ...]


def first_taken(base: nn.Module, examples: Iterable[Example]) -> Tried | Exception:
    """The first of some batches that the network takes; or what it said to the last, where it takes none.

    Raises:
        PlanError: the network cannot be copied, see :func:`gearnn.machine.compute.own_copy`.
    """
    failed: Exception | None = None
    for example in examples:
        copied = deep_copy(base, {}, is_again=failed is not None)
        try:
            return _tried(base, copied, example)
        except Exception as error:  # whatever a network dies of on what it does not take
            failed = error
    return failed or GearError("no batch to try")


def check(make: Make, base: nn.Module, adaptors: Adaptors, tried: Tried) -> None:
    """Try gears of every tensor that any level adapts.

    Raises:
        GearError: a gear answers otherwise than a deep copy does; names the module.
    """
    level = next(iter(adaptors))
    _check_nothing_is_left_of_other_weights(base, adaptors, tried)
    for number, batch in enumerate(_batches(base, tried)):
        for changed in (True, False):
            values = _values(base, adaptors, number if changed else None)
            expected, _ = _trace(deep_copy(base, values, is_again=True), batch.example)
            adaptor = _of_all_layers(adaptors, level, values)
            _compare(make(own_copy(base, is_again=True), {level: adaptor}, batch.moving), level, batch, expected)
            if _first_difference(batch.seen, expected) is not None:
                break  # this batch distinguishes the level from the base


def _check_nothing_is_left_of_other_weights(base: nn.Module, adaptors: Adaptors, tried: Tried) -> None:
    """A module in which an earlier run has left a tensor, derived from weights, may not ask its weights again.

    Raises:
        GearError: a changed weight of such a module changes nothing.
    """
    if not _keeps_tensors(base):
        return
    modules = dict(deep_copy(base, {}, is_again=True).named_modules())  # a copy may keep less
    ran = {seen.place for seen in tried.seen}
    for name, values in _values(base, adaptors, 0).items():
        path = name.rpartition(".")[0]
        if path in ran and _keeps_tensors(modules[path]):
            found, _ = _trace(deep_copy(base, {name: values}, is_again=True), tried.example)
            if _first_difference(tried.seen, found) is None:
                raise GearError(
                    f"{path or 'the root'} ({type(modules[path]).__name__}) keeps a tensor of an earlier run, and "
                    f"{name} changes nothing any more; build the gearbox before the base runs, or drop that tensor"
                )


def _keeps_tensors(module: nn.Module) -> bool:
    """Whether a module, its parts, or whatever else these hold have tensors besides their parameters and buffers."""
    parts = {id(part) for part in module.modules()}
    todo: list[object] = [module]
    seen: dict[int, object] = {}
    while todo:
        value = todo.pop()
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            return True
        if id(value) in seen:
            continue
        seen[id(value)] = value
        if id(value) in parts:
            todo += [held for name, held in vars(value).items() if name not in ("_parameters", "_buffers")]
        else:
            todo += parts_of(value)
    return False


def _tried(base: nn.Module, copied: nn.Module, example: Example) -> Tried:
    """What a fresh copy of the base makes of a batch."""
    before = stored_tensors(base)
    seen, output = _trace(copied, example)
    after = stored_tensors(copied)
    moving = tuple(name for name, t in before.items() if name not in after or not torch.equal(t, after[name]))
    return Tried(example=example, seen=seen, output=output, moving=moving)


def _batches(base: nn.Module, tried: Tried) -> list[Tried]:
    """One batch, or some where a network's answers are classes, few of which change with its weights."""
    found = [tried]
    if not any(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in leaves(tried.output)):
        for number in range(2, 2 + _OF_CLASSES):
            with suppress(Exception):  # a network may refuse what it is not made for
                found.append(_tried(base, deep_copy(base, {}, is_again=True), tried.example.other(number)))
    return found


def check_values(gears: Gears, base: nn.Module, adaptors: Adaptors, moving: Collection[str]) -> None:
    """Make sure that every gear holds its adaptor's values, and the base's in all that does not move.

    Raises:
        GearError: one does not.
    """
    theirs = stored_tensors(base)
    for level, adaptor in adaptors.items():
        adapted = under_first_names(adaptor.tensors, base)
        with gears.at(level) as network:
            ours = stored_tensors(network)
        for name, tensor in adapted.items():
            if not torch.equal(ours[name], tensor.to(ours[name])):
                raise GearError(f"{level}: the gear's {name} does not hold the adaptor's values")
        done = {id(ours[name]) for name in (*adapted, *moving)}
        for name, tensor in theirs.items():
            if id(ours[name]) not in done and ours[name] is not tensor and not torch.equal(ours[name], tensor):
                raise GearError(f"{level}: the gear's {name} is not as in the base, and no adaptor holds it")


def _compare(gears: Gears, level: DistortionLevel, tried: Tried, expected: Sequence[Seen]) -> None:
    """Run the base on another batch, then the level, and, where they are one network, the base once more."""
    with gears.at(None) as network, suppress(Exception):  # a network may refuse what it is not made for
        tried.example.other().run(network)
    runs: list[tuple[DistortionLevel | None, Sequence[Seen]]] = [(level, expected)]
    if len(gears.networks()) == 1:
        runs.append((None, tried.seen))
    for at, wanted in runs:
        try:
            with gears.at(at) as network:
                found, _ = _trace(network, tried.example)
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise GearError(f"{_held(gears)} cannot run this network, although a deep copy runs: {reason}") from error
        module = _first_difference(wanted, found)
        if module is not None:
            raise GearError(
                f"{_held(gears)} give other outputs than a deep copy of the network at {module}; does it keep "
                f"tensors or other state between calls, or refer to modules from outside?{_advice(gears)}"
            )


def _held(gears: Gears) -> str:
    return "gears in place" if len(gears.networks()) == 1 else "gears held as views"


def _advice(gears: Gears) -> str:
    return "; hold='views' may do" if len(gears.networks()) == 1 else ""


def _of_all_layers(adaptors: Adaptors, level: DistortionLevel, values: Mapping[str, Tensor]) -> Adaptor:
    layers = tuple(dict.fromkeys(name for adaptor in adaptors.values() for name in adaptor.layers))
    bound = sum(tensor.numel() for tensor in values.values())
    return replace(adaptors[level], layers=layers, bound=bound, tensors=values)


def _values(base: nn.Module, adaptors: Adaptors, seed: int | None) -> dict[str, Tensor]:
    """A value for every tensor that any level adapts: far from the first level's, or, without a seed, just that."""
    values: dict[str, Tensor] = {}
    for adaptor in adaptors.values():
        values = under_first_names(adaptor.tensors, base) | values
    return values if seed is None else {name: _changed(name, tensor, seed) for name, tensor in values.items()}


def _changed(name: str, tensor: Tensor, seed: int) -> Tensor:
    """Other values of the same size; variances stay positive."""
    generator = torch.Generator().manual_seed(1000 * seed + len(name))
    values = tensor.float().cpu()
    grown = values * (1.0 + 0.3 * torch.rand(values.shape, generator=generator))
    if name.endswith("running_var") or not values.numel():
        return grown
    least = 0.5 if values.ndim < 3 else 0.0  # biases and scales often start at next to nothing
    size = max(float(values.square().mean().sqrt()), least) or 0.1
    return grown + 0.3 * size * torch.randn(values.shape, generator=generator)


def _trace(network: nn.Module, example: Example) -> tuple[list[Seen], Any]:
    """What goes into every module of a network and what comes out, in the order of the calls; and the output.

    What goes into a module is seen as something that the module around it gives.
    """
    seen: list[Seen] = []
    handles = []
    for name, module in network.named_modules():
        if name and not isinstance(module, torch.jit.ScriptModule):
            around = name.rpartition(".")[0]
            into = _noting(seen, f"into {name}", around, network.get_submodule(around))
            handles.append(module.register_forward_pre_hook(into))
            handles.append(module.register_forward_hook(_noting(seen, name, name, module)))
    try:
        output = example.run(network)
    finally:
        for handle in handles:
            handle.remove()
    return [*seen, _seen("", "", network, output)], output


def _noting(seen: list[Seen], place: str, name: str, module: nn.Module) -> Callable[..., None]:
    """A hook, before or behind a call, that notes its last argument."""
    return lambda *given: seen.append(_seen(place, name, module, given[-1]))


def _seen(place: str, name: str, module: nn.Module, values: Any) -> Seen:
    where = f"{name or 'its root'} ({type(module).__name__})"
    return Seen(place, where, tuple(map(_sampled, leaves(values))))


def _sampled(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor) or leaf.layout is not torch.strided:
        return leaf
    flat = leaf.detach().reshape(-1)
    return tuple(leaf.shape), flat[:: max(1, flat.numel() // _SAMPLED)].clone()


def _first_difference(expected: Sequence[Seen], found: Sequence[Seen]) -> str | None:
    """The first module that gave something else; None where all gave the same.

    Modules that only one of both calls are left out: a copy that shares modules may call its own from a list.
    """
    given: dict[str, list[Seen]] = {}
    for seen in found:
        given.setdefault(seen.place, []).append(seen)
    for seen in expected[:-1]:
        other = given.get(seen.place)
        if other and _is_other(seen, other.pop(0)):
            return seen.module
    return expected[-1].module if _is_other(expected[-1], found[-1]) else None


def _is_other(expected: Seen, found: Seen) -> bool:
    pairs = zip(expected.outputs, found.outputs, strict=False)
    return len(expected.outputs) != len(found.outputs) or any(_differ(a, b) for a, b in pairs)


def _differ(expected: Any, found: Any) -> bool:
    """Whether two leaves, tensors as shape and values, are not the same but for rounding."""
    if not isinstance(expected, tuple) or not isinstance(found, tuple):
        return isinstance(expected, bool | int | float | str) and expected != found
    (shape, values), (other_shape, others) = expected, found
    return shape != other_shape or _distance(values, others) > _OFF.get(values.device.type, _OFF_ELSEWHERE)


def _distance(a: Tensor, b: Tensor) -> float:
    """Of two tensors of one shape, as a share of the largest value; infinite where integers, or NaNs, differ."""
    if torch.equal(a, b):
        return 0.0
    if not a.is_floating_point() or not torch.equal(a.isfinite(), b.isfinite()):
        return math.inf
    finite = a.isfinite()
    a, b = a[finite].double(), b[finite].double()
    return float((a - b).abs().max() / a.abs().max().clamp(min=1e-30)) if len(a) else 0.0


def why_not_apart(base: nn.Module, tried: Tried) -> str:
    """Why frames of one batch cannot be run in several and put together; nothing where they can."""
    for row, alone in zip((slice(0, 1), slice(-1, None)), tried.example.frames_alone(), strict=False):
        try:
            found = alone.run(deep_copy(base, {}, is_again=True))
        except Exception as error:  # whatever a network dies of on a single frame
            return f"the network takes several frames, but not one: {' '.join(str(error).split())[:100]}"
        if reason := _why_no_rows(found, tried.output, row, len(tried.example.arguments[0])):
            return reason
    return ""


def _why_no_rows(one: Any, all_of_them: Any, row: slice, number: int) -> str:
    """Why the outputs for one frame and for several are not one row, or one answer, a frame."""
    pairs: list[tuple[Any, Any]] = []
    if isinstance(one, Mapping) and isinstance(all_of_them, Mapping):
        pairs = [(value, all_of_them.get(key)) for key, value in one.items()]
    elif isinstance(one, tuple) and isinstance(all_of_them, tuple):
        pairs = list(zip(one, all_of_them, strict=False))
    elif isinstance(one, list) and isinstance(all_of_them, list):
        right = (len(one), len(all_of_them)) == (1, number)
        return "" if right else f"the network gives {len(all_of_them)} answers for {number} frames"
    elif isinstance(one, Tensor) and isinstance(all_of_them, Tensor):
        if one.ndim == 0 or len(one) != 1 or all_of_them.shape != (number, *one.shape[1:]):
            return f"the network does not give one row a frame, but {list(all_of_them.shape)} for {number} frames"
        if _apart(one, all_of_them[row]) > _NEIGHBOURS:
            return "the network's output for a frame depends on the frames beside it"
    return next(filter(None, (_why_no_rows(a, b, row, number) for a, b in pairs)), "")


def _apart(one: Tensor, other: Tensor) -> float:
    """Largest difference as a share of the largest value; of classes, the share of those that differ."""
    return _distance(one, other) if one.is_floating_point() else float((one != other).double().mean())
