"""Copies of a network that have some tensors of their own, and share all others with it.

Such a copy answers as a plain deep copy does into which the tensors were written: whatever refers to a
tensor inside of the network (tied weights, lists, hooks, modules that keep their weights in a second place)
refers to the copy's own.
"""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gearnn.layers import aliases, stored_tensors
from gearnn.machine.compute import own_copy

_KEEP_NOTHING = "torch.nn.modules.", "torchvision.ops."
"""Where modules come from whose calls leave nothing behind."""
_TREE = {"_parameters", "_buffers", "_modules"}


def sharing_copy(
    model: nn.Module, own: Mapping[str, Tensor], *, share_modules: bool = False, apart: Collection[str] = ()
) -> nn.Module:
    """A network with tensors of its own in some places.

    Args:
        model: stays as it is.
        own: name -> tensor that stands there instead, an ``nn.Parameter`` where the model has one; a tensor
            with several names (tied weights) is given under one of them.
        share_modules: also share modules of torch's own that hold none of these tensors and nothing that a
            call could leave behind, for networks that only ever run in evaluation mode: a module object
            weighs more than a small layer's adaptor.
        apart: names of further tensors that get copies, because forward passes change them.

    Returns:
        The copy; where a kind of module drops derived weights when it trains (LeViT's biases), they are dropped.
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        return deep_copy(model, own)  # what is scripted copies its tensors in its own way
    with torch.inference_mode(False), torch.no_grad():
        state = stored_tensors(model)  # keeps the tensors alive, so that no other object gets their identity
        mine = {id(state[name]): tensor for name, tensor in own.items()}
        separate = mine.keys() | {id(state[name]) for name in apart}
        shared = {id(tensor): tensor for tensor in state.values() if id(tensor) not in separate}
        if not _may_drop_weights(model):
            copied = own_copy(model, shared | mine)  # what is in the memo is taken over, not copied
        else:
            whole = own_copy(model, mine)  # it may change tensors when its mode changes
            _change_mode_and_back(whole)
            same = _same_tensors(whole, {name: t for name, t in state.items() if id(t) in shared})
            copied = own_copy(whole, same)
        if share_modules:
            _share_modules(copied, model, {}, set())
    return copied


def like(tensor: Tensor, old: Tensor) -> Tensor:
    """The values in the dtype, on the device and in the memory order of the tensor that they replace, densely."""
    with torch.inference_mode(False), torch.no_grad():
        fresh = torch.empty_like(old, requires_grad=False).copy_(tensor)
        return nn.Parameter(fresh, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else fresh


def under_first_names(tensors: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Tensors by name, tied ones under the first of their names in the model."""
    tied = aliases(model)
    return {tied.get(name, [name])[0]: tensor for name, tensor in tensors.items()}


def deep_copy(model: nn.Module, tensors: Mapping[str, Tensor], *, is_again: bool = False) -> nn.Module:
    """A plain deep copy with values written into some of its tensors; what a sharing copy is compared with.

    Args:
        model: stays as it is.
        tensors: name -> values.
        is_again: see :func:`gearnn.machine.compute.own_copy`.
    """
    with torch.inference_mode(False), torch.no_grad():
        copied = own_copy(model, is_again=is_again)
        state = stored_tensors(copied)
        for name, tensor in tensors.items():
            state[name].copy_(tensor)
        _change_mode_and_back(copied)
    return copied


def _may_drop_weights(model: nn.Module) -> bool:
    """Whether any module does more than note its mode when it changes."""
    return any(type(module).train is not nn.Module.train for module in model.modules())


def _change_mode_and_back(model: nn.Module) -> None:
    """As fine-tuning does, after which derived weights are made anew."""
    modes = {module: module.training for module in model.modules()}
    for mode in (not model.training, model.training):
        model.train(mode)
    for module, mode in modes.items():
        module.training = mode


def _same_tensors(copied: nn.Module, theirs: Mapping[str, Tensor]) -> dict[int, Any]:
    """A memo for copying once more: tensors that are as the model's are the model's, all others are taken over."""
    memo: dict[int, Any] = {}
    for name, tensor in stored_tensors(copied).items():
        other = theirs.get(name)
        memo[id(tensor)] = other if other is not None and torch.equal(tensor, other) else tensor
    return memo


def _share_modules(copied: nn.Module, model: nn.Module, known: dict[int, bool], seen: set[int]) -> None:
    """Hang the model's own modules into a copy, where nothing of the copy's own lies below."""
    if id(copied) in seen or isinstance(copied, torch.jit.ScriptModule):
        return
    seen.add(id(copied))
    for name, theirs in model._modules.items():
        ours = copied._modules.get(name)
        if theirs is None or ours is None or ours is theirs:
            continue
        if _keeps_nothing(theirs, known) and _hold_the_same(ours, theirs):
            copied._modules[name] = theirs
        else:
            _share_modules(ours, theirs, known, seen)


def _hold_the_same(ours: nn.Module, theirs: nn.Module) -> bool:
    own, others = stored_tensors(ours), stored_tensors(theirs)
    return own.keys() == others.keys() and all(own[name] is others[name] for name in own)


def _keeps_nothing(module: nn.Module, known: dict[int, bool]) -> bool:
    """A module of torch's own, without hooks and with plain attributes: no call can leave anything behind in it."""
    if id(module) not in known:
        known[id(module)] = (
            type(module).__module__.startswith(_KEEP_NOTHING)
            and all(_is_plain(value) for name, value in vars(module).items() if name not in _TREE)
            and all(_keeps_nothing(child, known) for child in module.children())
        )
    return known[id(module)]


def _is_plain(value: Any) -> bool:
    """A number, a word, or a collection of such; hooks are neither."""
    if isinstance(value, Mapping):
        return not value
    if isinstance(value, list | tuple | set):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str | torch.dtype | torch.device)
