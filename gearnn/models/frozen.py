"""BatchNorm layers that never move: freezing them, and thawing them for training from scratch."""

from collections.abc import Collection

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import FrozenBatchNorm2d


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
        else:
            module.requires_grad_(False).eval()
    return list(found)


def thaw_batchnorms(model: nn.Module) -> list[str]:
    """Make fixed BatchNorm layers learnable, in place; the inverse of :func:`freeze_batchnorms`.

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
            module.requires_grad_(True)
    return list(found)


def _is_fixed(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.affine and not module.weight.requires_grad


@torch.no_grad()
def _frozen(module: nn.Module) -> FrozenBatchNorm2d:
    fixed = FrozenBatchNorm2d(module.num_features, eps=module.eps)
    for name, tensor in module.state_dict().items():
        if name in dict(fixed.named_buffers()):
            fixed.register_buffer(name, tensor.detach().clone())
    return fixed


@torch.no_grad()
def _thawed(module: FrozenBatchNorm2d) -> nn.BatchNorm2d:
    thawed = nn.BatchNorm2d(module.weight.numel(), eps=module.eps, device=module.weight.device)
    thawed.load_state_dict(dict(module.named_buffers()), strict=False)
    return thawed


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
