"""Running statistics folded into scale and shift, so that moving them costs an adaptor nothing.

In evaluation a BatchNorm computes ``y = s * x + t`` with ``s = w / sqrt(var + eps)`` and ``t = b - s * mean``. A
layer whose statistics moved is the same function with the *base's* statistics and

    w' = s * sqrt(var_base + eps)        b' = t + s * mean_base

so an adaptor keeps 2C values for it instead of 4C. The same w' and b' are the effective scale and shift on which
Eq. 1 is computed. InstanceNorm with running statistics is the same.
"""

import copy
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from gearnn.errors import AdaptorError

_SMALLEST_VARIANCE = 1e-30
"""Of the base, eps included, in float32: its square root still divides and multiplies without losing digits."""
_PROBES = ((4,), (4, 3), (4, 3, 3), (4, 2, 2, 2))
"""Batch, and what follows the channels, of inputs with which a layer is tried: of 0, 1, 2 and 3 dimensions."""
_EXACT = 1e-9
_ROUNDING = 1e-3
"""Of the largest value that a module gives: what float32 may make of it in a deep network."""
_SOME = 65_536


def foldable(model: nn.Module) -> set[str]:
    """Paths of the layers whose statistics can be folded.

    Left out are layers without a learnable scale and shift of their own, layers that share one of their tensors
    with another module, layers with a variance too small to divide by, layers with hooks, and layers of classes of a
    user's own that compute something else in evaluation. What a module around them does with their statistics is found
    by :func:`check_folded`, once there is an adaptor.
    """
    owners: dict[int, set[int]] = defaultdict(set)
    for module in model.modules():
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            owners[id(tensor)].add(id(module))
    return {path for path, module in model.named_modules() if _can_fold(module, owners)}


def effective(base: nn.Module, tuned: nn.Module, *, statistics_only: bool = False) -> tuple[Tensor, Tensor]:
    """Scale w' and shift b' of a tuned layer against the statistics of its base, float64 [channels] both.

    Args:
        base: a BatchNorm or InstanceNorm with running statistics; without scale and shift of its own, 1 and 0.
        tuned: the same layer after a fine-tune.
        statistics_only: whether its own scale and shift count as the base's, because another layer has them.
    """
    before, after = _Terms(base), _Terms(tuned)
    if statistics_only:
        after.weight, after.bias = before.weight, before.bias
    scale = after.weight / (after.var + after.eps).sqrt()
    return scale * (before.var + before.eps).sqrt(), after.bias + scale * (before.mean - after.mean)


def fold(path: str, base: nn.Module, tuned: nn.Module) -> dict[str, Tensor]:
    """What an adaptor stores for a layer whose statistics moved: ``weight`` and ``bias``, float32 [channels].

    Args:
        path: of the layer, for messages.
        base: the layer in the base.
        tuned: the same layer after the fine-tune, on the CPU.

    Raises:
        AdaptorError: a value is beyond float32's range; or the layer computes otherwise than BatchNorm does, tried
            with noise in float64.
    """
    weight, bias = effective(base, tuned)
    if why := _not_the_same(base, tuned, weight, bias):
        raise AdaptorError(
            f"layer {path}: expected its running statistics to fold into scale and shift, but {why}; "
            f"bound.batchnorm_statistics: selected stores them themselves"
        )
    return {"weight": weight.float(), "bias": bias.float()}


def check_folded(folded: nn.Module, tuned: nn.Module, run: Callable[[nn.Module], object]) -> None:
    """Make sure that a base with an adaptor computes what was trained, module by module.

    Folding is exact for a layer by itself. A module around it that reads its running statistics otherwise, such as
    ``x / (bn.running_var.mean() + 1)``, would get the base's.

    Args:
        folded: the base with the adaptor, in float32.
        tuned: the network that was fine-tuned.
        run: runs a network on a frame.

    Raises:
        AdaptorError: they differ by more than rounding; the first module that does is named.
    """
    with torch.no_grad():
        pairs = zip(_given(tuned.eval(), run), _given(folded.eval(), run), strict=False)
        for (path, wanted), (_, found) in pairs:
            if wanted.shape != found.shape:  # detectors go on with boxes that rounding may choose
                return
            largest = float(wanted.abs().max()) if wanted.numel() else 0.0
            if wanted.numel() and float((wanted - found).abs().max()) > _ROUNDING * max(largest, 1e-6):
                where = path or "the network"
                raise AdaptorError(
                    f"expected the base with folded statistics to compute what was trained, but {where} gives "
                    "something else, perhaps because a module reads running statistics itself; "
                    f"bound.batchnorm_statistics: selected stores them as they are"
                )


def _given(network: nn.Module, run: Callable[[nn.Module], object]) -> list[tuple[str, Tensor]]:
    """What every module without parts, and the network, gives, in the order of calls; of large tensors some values."""
    given: list[tuple[str, Tensor]] = []

    def note(path: str, output: object) -> None:
        if isinstance(output, Tensor) and output.is_floating_point():
            values = output.detach().flatten().float()
            given.append((path, values[:: max(1, values.numel() // _SOME)].clone()))

    hooks = [
        module.register_forward_hook(lambda module, args, output, path=path: note(path, output))
        for path, module in network.named_modules()
        if path == "" or not any(True for _ in module.children())
    ]
    try:
        run(network)
    finally:
        for hook in hooks:
            hook.remove()
    return given


class _Terms:
    """What a layer computes with, float64 on the CPU."""

    def __init__(self, module: nn.Module) -> None:
        self.mean, self.var = _double(module.running_mean), _double(module.running_var)  # type: ignore[arg-type]
        weight, bias = module._parameters.get("weight"), module._parameters.get("bias")
        self.weight = torch.ones_like(self.mean) if weight is None else _double(weight)
        self.bias = torch.zeros_like(self.mean) if bias is None else _double(bias)
        self.eps: float = module.eps  # type: ignore[assignment]


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64)


def _can_fold(module: nn.Module, owners: dict[int, set[int]]) -> bool:
    if not isinstance(module, _NormBase) or module.running_mean is None or module.running_var is None:
        return False
    own = [module._parameters.get("weight"), module._parameters.get("bias")]
    if not all(parameter is not None and parameter.requires_grad for parameter in own):
        return False
    if any(len(owners[id(tensor)]) > 1 for tensor in (*own, module.running_mean, module.running_var)):
        return False
    if module.running_var.is_meta:  # of a network without values nothing is too small
        return _is_torchs(module)
    if not bool((module.running_var.detach().float() + module.eps >= _SMALLEST_VARIANCE).all()):
        return False
    if module._forward_hooks or module._forward_pre_hooks:  # which may read the statistics
        return False
    return _is_torchs(module) or not _not_the_same(module, module, *effective(module, module), moved=True)


def _is_torchs(module: nn.Module) -> bool:
    """Whether the class computes as torch's does."""
    return type(module).forward in (kind.forward for kind in _KINDS)


_KINDS = (nn.BatchNorm1d, nn.SyncBatchNorm, nn.InstanceNorm1d)
"""Those of which the others inherit ``forward``."""


def _not_the_same(base: nn.Module, tuned: nn.Module, weight: Tensor, bias: Tensor, *, moved: bool = False) -> str:
    """Why a layer with folded values does not compute what the tuned one does; nothing where it does.

    Args:
        base: the layer with the statistics of the base.
        tuned: the layer after the fine-tune.
        weight: w'.
        bias: b'.
        moved: whether to move the statistics of ``tuned`` first, to try a layer before it was tuned.
    """
    if not all(bool(torch.isfinite(values.float()).all()) for values in (weight, bias)):
        return "a value is beyond float32's range"
    try:
        before, after = (copy.deepcopy(module).to("cpu", torch.float64).eval() for module in (base, tuned))
        with torch.no_grad():
            if moved:
                after.running_mean.add_(after.running_var.sqrt())  # type: ignore[operator]
                after.running_var.mul_(2.0)  # type: ignore[operator]
                weight, bias = effective(before, after)
            before.weight.copy_(weight)  # type: ignore[operator]
            before.bias.copy_(bias)  # type: ignore[operator]
            noise = _taken(after)
            wanted, found = after(noise), before(noise)
        furthest = float((wanted - found).abs().max())
    except Exception as error:  # a class of somebody else's may do anything
        return f"{type(tuned).__name__} cannot be tried with noise: {type(error).__name__}: {error}"
    return "" if furthest <= _EXACT * max(1.0, float(wanted.abs().max())) else f"{type(tuned).__name__} differs"


def _taken(module: nn.Module) -> Tensor:
    """Noise around the statistics of a layer, float64, of a shape that it takes."""
    mean, var = _double(module.running_mean), _double(module.running_var)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    for batch, *rest in _PROBES:
        shape = [1, -1, *[1] * len(rest)]
        noise = torch.randn([batch, len(mean), *rest], generator=generator, dtype=torch.float64)
        noise = noise * var.sqrt().reshape(shape) + mean.reshape(shape)
        try:
            module(noise)
        except ValueError:  # torch's layers say so of an input of other dimensions
            continue
        return noise
    raise TypeError("it takes no input of 2 to 5 dimensions")
