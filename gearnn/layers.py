"""The layers l_i of a network, their sizes N_i (section 3.2), and the fingerprint that distinguishes networks."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from gearnn.errors import CheckpointError
from gearnn.folding import foldable

Granularity = Literal["layer", "tensor"]
"""``layer``: a module that owns tensors is one item; ``tensor``: every parameter is an item of its own."""

BatchNormStatistics = Literal["folded", "frozen", "selected", "all"]
"""Which running statistics move while an adaptor is fine-tuned, and how it holds them: ``folded``, those of selected
layers, as scale and shift (:mod:`gearnn.folding`); ``frozen``, none; ``selected``, those of selected layers, as they
are; ``all``, every one, as they are. A full fine-tune moves all of them or, ``frozen``, none."""

_WEIGHING = ("weight", "bias", "running_mean", "running_var")  # buffers of FrozenBatchNorm, statistics

BATCHNORM_POLICIES: tuple[str, ...] = get_args(BatchNormStatistics)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One item of the knapsack.

    Attributes:
        name: path of the module, ``base.3.0.conv1``; with granularity ``tensor`` the parameter's name.
        kind: class of the module, ``Conv2d``.
        weights: names of its learnable tensors, biases included (footnote 1 of the paper).
        statistics: names of its running statistics, where it has any.
        num_weights: learnable values.
        num_values: N_i, the floating-point values that an adaptor stores for it under the plan's
            BatchNorm policy.
        folds: whether its statistics, once moved, can be stored as scale and shift.
    """

    name: str
    kind: str
    weights: tuple[str, ...]
    statistics: tuple[str, ...]
    num_weights: int
    num_values: int
    folds: bool = False

    def stored(self, batchnorm_statistics: BatchNormStatistics) -> tuple[str, ...]:
        """Names of the tensors that an adaptor with this layer holds for it."""
        return self.weights + (self.statistics if _is_charged(batchnorm_statistics, self.folds) else ())


def layers_of(
    model: nn.Module,
    granularity: Granularity = "layer",
    batchnorm_statistics: BatchNormStatistics = "folded",
) -> list[Layer]:
    """The layers of a network that could be adapted, in the order of its modules.

    Modules of every kind that own learnable weights are candidates, those that own bare parameters too.
    Modules without learnable weights (the fixed ``up.weight`` of a DRN, FrozenBatchNorm) are none. A tensor
    that several modules share (tied weights, tied statistics) belongs to the first of them and counts once.
    A module whose parameters hold no values (``torch.empty(0)``, which only marks a device) is a layer of size
    0: Eq. 1 gives it 0, and Eq. 2 never chooses it. Under ``folded`` a BatchNorm without scale and shift is a layer
    of its statistics alone.

    Args:
        model: the base; ``requires_grad`` says which parameters are learnable.
        granularity: what counts as one layer; a BatchNorm whose statistics are folded is one either way.
        batchnorm_statistics: whether running statistics count into N_i: under ``selected``, and under ``folded``
            where they cannot be folded; under ``all`` see :func:`charged_once`.
    """
    seen: set[int] = set()
    layers: list[Layer] = []
    folding = foldable(model) if batchnorm_statistics == "folded" else set()
    for path, module in model.named_modules():
        owned = [(n, p) for n, p in module.named_parameters(recurse=False) if _can_learn(p) and id(p) not in seen]
        seen.update(id(p) for _, p in owned)
        statistics = {n: t for n, t in _running_statistics(path, module).items() if id(t) not in seen}
        if not owned and not (statistics and batchnorm_statistics == "folded"):
            continue
        seen.update(map(id, statistics.values()))
        is_whole = granularity == "layer" or path in folding or not owned
        for index, group in enumerate([owned] if is_whole else [[one] for one in owned]):
            carried = statistics if index == 0 else {}
            num_weights = sum(p.numel() for _, p in group)
            charged = sum(t.numel() for t in carried.values()) * _is_charged(batchnorm_statistics, path in folding)
            layers.append(
                Layer(
                    name=(path or "(root)") if is_whole else _join(path, group[0][0]),
                    kind=type(module).__name__,
                    weights=tuple(_join(path, n) for n, _ in group),
                    statistics=tuple(carried),
                    num_weights=num_weights,
                    num_values=num_weights + charged,
                    folds=path in folding,
                )
            )
    return layers


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer of a network under every name that it has."""
    tensors: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    return tensors | dict(model.named_buffers(remove_duplicate=False))


def aliases(model: nn.Module) -> dict[str, list[str]]:
    """Names of every tensor of a network that has more than one (tied weights): each name -> all names."""
    by_tensor: dict[int, list[str]] = {}
    for name, tensor in stored_tensors(model).items():
        by_tensor.setdefault(id(tensor), []).append(name)
    return {name: names for names in by_tensor.values() if len(names) > 1 for name in names}


def statistics_of(model: nn.Module) -> dict[str, Tensor]:
    """Running statistics of every BatchNorm layer that can learn, each once: name -> float tensor [channels]."""
    found: dict[int, tuple[str, Tensor]] = {}
    for path, module in model.named_modules():
        for name, tensor in _running_statistics(path, module).items():
            found.setdefault(id(tensor), (name, tensor))
    return dict(found.values())


def charged_once(model: nn.Module, batchnorm_statistics: BatchNormStatistics) -> int:
    """Values that every adaptor holds besides its layers: under ``all`` the running statistics, else none."""
    return sum(t.numel() for t in statistics_of(model).values()) if batchnorm_statistics == "all" else 0


def room_for_layers(model: nn.Module, bound: int, batchnorm_statistics: BatchNormStatistics) -> int:
    """Values of a bound that layers can take: what is left of it beside :func:`charged_once`."""
    return bound - charged_once(model, batchnorm_statistics)


def model_size(model: nn.Module) -> int:
    """Floating-point values of the network, as Table 1 counts them.

    Learnable parameters, fixed weights and running statistics; the integer ``num_batches_tracked``
    is left out. A shared tensor counts once.
    """
    return sum(t.numel() for t in _floats(model))


def fingerprint(model: nn.Module) -> str:
    """What distinguishes one base from another: sha256 over its floating-point values.

    Names, shapes and values as little-endian float32, sorted by name. Independent of device, memory
    format and of the precision in which the file stored the values.

    Returns:
        64 hexadecimal digits.

    Raises:
        CheckpointError: a value is NaN, infinite, or of float64 and beyond float32's range; see :func:`unusable`.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
        if isinstance(tensor, Tensor) and tensor.is_floating_point():  # some modules keep other things in their state
            values = tensor.detach().to(device="cpu", dtype=torch.float32).contiguous()
            if why := unusable(name, tensor, values):
                raise CheckpointError(f"network: expected finite values that fit float32, but {name} has {why}")
            digest.update(f"{name}{list(values.shape)}".encode())
            digest.update(values.numpy().astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def unusable(name: str, tensor: Tensor, as_float32: Tensor | None = None) -> str:
    """What is wrong with the values of a network's tensor, for people; nothing where they can be used.

    Values must be finite as float32, in which adaptors keep them and fingerprints read them. Of buffers
    negative infinity is allowed, which masks of attention are made of, but not in fixed weights and statistics.

    Args:
        name: in the network.
        tensor: of any dtype; as it stands in the network, because parameters and buffers differ.
        as_float32: the same values as float32, where the caller has them already.

    >>> unusable("a", torch.tensor([1.0, float("nan")])), unusable("b", torch.tensor([1e39], dtype=torch.float64))
    ('NaN', "a value beyond float32's range")
    """
    if not tensor.is_floating_point():
        return ""
    given = tensor.detach()
    values = given.float() if as_float32 is None else as_float32
    if bool(torch.isfinite(values).all()):
        return ""
    if bool(values.isnan().any()):
        return "NaN"
    if given.dtype == torch.float64 and bool((values.isinf() & given.isfinite().to(values.device)).any()):
        return "a value beyond float32's range"
    weighs = isinstance(tensor, nn.Parameter) or name.rpartition(".")[2] in _WEIGHING
    return "infinity" if weighs or bool(values.isposinf().any()) else ""


def check_finite(model: nn.Module, what: str) -> None:
    """Make sure that a network can be fine-tuned from, adapted and distinguished from others.

    Args:
        model: with all of its parameters and buffers.
        what: how to call it.

    Raises:
        CheckpointError: a value is NaN, infinite, or of float64 and beyond float32's range.
    """
    for name, tensor in stored_tensors(model).items():
        if why := unusable(name, tensor):
            raise CheckpointError(f"{what}: expected finite values that fit float32, but {name} has {why}")


def overlapping(model: nn.Module) -> list[str]:
    """Names of parameters that share memory with another tensor, or hold a value twice (``expand``), and of those.

    Every copy of such a network holds them apart. Tied weights, one parameter under several names, stay tied, and so
    do buffers that share memory with each other only.
    """
    found: list[str] = []
    before: list[_Place] = []
    for place in sorted(_places(model), key=lambda place: place.start):
        if place.repeats:
            found.append(place.name)
        before = [other for other in before if other.end > place.start]
        for other in before:
            if (place.is_weight or other.is_weight) and place.shares_with(other):
                found += [other.name, place.name]
        before.append(place)
    return list(dict.fromkeys(found))


def batchnorms(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module that holds running statistics, with its path; torchvision's FrozenBatchNorm has fixed ones."""
    return ((path, module) for path, module in model.named_modules() if _holds_statistics(module))


def named(layers: Sequence[Layer], names: Sequence[str]) -> list[Layer]:
    """The layers of these names, in the order of ``layers``.

    Raises:
        KeyError: a name is not among them.
    """
    by_name = {layer.name: layer for layer in layers}
    wanted = {by_name[name].name for name in names}
    return [layer for layer in layers if layer.name in wanted]


def _is_charged(policy: BatchNormStatistics, folds: bool) -> bool:
    """Whether a layer's statistics are held beside its weights."""
    return policy == "selected" or (policy == "folded" and not folds)


def _can_learn(parameter: nn.Parameter) -> bool:
    return parameter.requires_grad and parameter.is_floating_point()


def _holds_statistics(module: nn.Module) -> bool:
    """A BatchNorm, or an InstanceNorm, that tracks statistics."""
    return isinstance(module, _NormBase) and module.running_mean is not None


def _is_fixed(module: nn.Module) -> bool:
    """Whether a BatchNorm's weights are not learnable; then its statistics are not either."""
    weights = list(module.parameters(recurse=False))
    return bool(weights) and not any(weight.requires_grad for weight in weights)


def _running_statistics(path: str, module: nn.Module) -> dict[str, Tensor]:
    if not _holds_statistics(module) or _is_fixed(module):
        return {}
    return {_join(path, n): b for n, b in module.named_buffers(recurse=False) if b.is_floating_point()}


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies: addresses of its first byte and behind its last one."""

    name: str
    tensor: Tensor
    start: int
    end: int

    @property
    def is_weight(self) -> bool:
        return isinstance(self.tensor, nn.Parameter)

    @property
    def repeats(self) -> bool:
        """Whether it is a weight that holds a value twice: one dimension stands still, or there are more than fit."""
        stands = any(number > 1 and step == 0 for number, step in self._steps)
        return self.is_weight and (stands or self.tensor.numel() * self._size > self.end - self.start)

    def shares_with(self, other: "_Place") -> bool:
        """Whether some value lies where one of the other does, given that their ranges cross, as columns' do."""
        if self.tensor.device != other.tensor.device:
            return False
        (ours, length), (theirs, other_length) = self._runs, other._runs
        first = torch.searchsorted(theirs, ours - other_length, right=True)
        return bool((first < torch.searchsorted(theirs, ours + length)).any())

    @property
    def _size(self) -> int:
        return self.tensor.element_size()

    @property
    def _steps(self) -> list[tuple[int, int]]:
        """(number, step) of every dimension, those with the smallest steps first."""
        return sorted(zip(self.tensor.shape, self.tensor.stride(), strict=True), key=lambda dim: dim[1])

    @cached_property
    def _runs(self) -> tuple[Tensor, int]:
        """Addresses at which values without gaps start, in order, and how many bytes each of these runs has."""
        starts, length = torch.tensor([self.start]), 1
        for number, step in self._steps:
            if step == length:
                length *= number
            elif number > 1 and step:
                starts = (starts[:, None] + torch.arange(number) * step * self._size).flatten()
        return starts.sort().values, length * self._size


def _places(model: nn.Module) -> Iterator[_Place]:
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if tensor.numel() and tensor.layout == torch.strided and tensor.device.type != "meta":
            last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
            start = tensor.data_ptr()
            yield _Place(name, tensor, start, start + (1 + last) * tensor.element_size())


def _floats(model: nn.Module) -> Iterator[Tensor]:
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            yield tensor


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
