"""BatchNorm layers that never move: freezing them, and thawing them for training from scratch."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import FrozenBatchNorm2d

_FORMER = "_gearnn_before_it_was_fixed"


def freeze_batchnorms(model: nn.Module, paths: Collection[str] | None = None) -> list[str]:
    """Fix BatchNorm layers, weights and statistics alike, in place.

    A plain ``BatchNorm2d`` becomes torchvision's ``FrozenBatchNorm2d``, which has the same tensors as
    buffers. A subclass that does more than normalise (timm's, which also activate) stays what it is,
    with weights that are not learnable; :func:`gearnn.layers.batchnorms` leaves both out.

    Args:
        model: with BatchNorm layers in it.
        paths: only these; None fixes all.

    Returns:
        Paths of the layers that were fixed.
    """
    found = {
        path: module
        for path, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, _BatchNorm) and module.affine and (paths is None or path in paths)
    }
    fixed: dict[nn.Module, nn.Module] = {}  # a module that stands in several places stays one
    for path, module in found.items():
        if type(module) in (nn.BatchNorm2d, nn.SyncBatchNorm) and module.track_running_stats:
            if module not in fixed:
                fixed[module] = _frozen(module)
            _replace(model, path, fixed[module])
        elif not hasattr(module, _FORMER):
            setattr(module, _FORMER, _Former.of(module))
            module.requires_grad_(False).eval()
    return list(found)


def thaw_batchnorms(model: nn.Module) -> list[str]:
    """Make fixed BatchNorm layers learnable, in place; the inverse of :func:`freeze_batchnorms`.

    What that has frozen gets back all that it had: class, momentum, eps, mode, counter, and which of its weights
    were learnable. A layer that was built frozen becomes a ``BatchNorm2d`` with torch's own momentum.

    Returns:
        Paths of the layers that were thawed.
    """
    found = {
        path: module
        for path, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, FrozenBatchNorm2d) or _is_fixed(module)
    }
    thawed: dict[nn.Module, nn.Module] = {}
    for path, module in found.items():
        if isinstance(module, FrozenBatchNorm2d):
            if module not in thawed:
                thawed[module] = _thawed(module)
            _replace(model, path, thawed[module])
        else:
            _unfix(module, model.training)
    return list(found)


def _is_fixed(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.affine and not module.weight.requires_grad


@dataclass(frozen=True, kw_only=True)
class _Former:
    """What a BatchNorm was before it was fixed, beside its tensors."""

    kind: type[nn.Module]
    momentum: float | None
    training: bool
    learnable: Mapping[str, bool]
    counter: int

    @classmethod
    def of(cls, module: _BatchNorm) -> "_Former":
        return cls(
            kind=type(module),
            momentum=module.momentum,
            training=module.training,
            learnable={name: p.requires_grad for name, p in module.named_parameters(recurse=False)},
            counter=0 if module.num_batches_tracked is None else int(module.num_batches_tracked),
        )


@torch.no_grad()
def _frozen(module: _BatchNorm) -> FrozenBatchNorm2d:
    fixed = FrozenBatchNorm2d(module.num_features, eps=module.eps)
    for name, tensor in module.state_dict().items():
        if name in dict(fixed.named_buffers()):
            fixed.register_buffer(name, tensor.detach().clone())
    setattr(fixed, _FORMER, _Former.of(module))
    return fixed.train(module.training)


@torch.no_grad()
def _thawed(module: FrozenBatchNorm2d) -> nn.Module:
    former: _Former | None = getattr(module, _FORMER, None)
    kind = nn.BatchNorm2d if former is None else former.kind
    weight = module.weight
    thawed = kind(weight.numel(), eps=module.eps, device=weight.device, dtype=weight.dtype)
    thawed.load_state_dict(dict(module.named_buffers()), strict=False)
    if former is not None:
        _restored(thawed, former)
    return thawed.train(module.training)  # which has followed the network's mode since


def _unfix(module: nn.Module, training: bool) -> None:
    """Make a layer that kept its class learnable; ``training`` is the mode of the network around it."""
    former: _Former | None = getattr(module, _FORMER, None)
    if former is None:
        module.requires_grad_(True)
    else:
        delattr(module, _FORMER)
        _restored(module, former).train(former.training and training)


def _restored(module: nn.Module, former: _Former) -> nn.Module:
    module.momentum = former.momentum  # type: ignore[assignment]
    for name, parameter in module.named_parameters(recurse=False):
        parameter.requires_grad_(former.learnable[name])
    if module.num_batches_tracked is not None:
        module.num_batches_tracked.fill_(former.counter)  # type: ignore[operator]
    return module


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
