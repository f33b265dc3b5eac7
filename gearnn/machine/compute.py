"""Where and in which precision a network runs."""

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gearnn.errors import PlanError
from gearnn.machine.foreign import check_nothing_foreign, held

Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class Compute:
    """A device with the precision of its forward passes; weights and optimiser state stay float32.

    Attributes:
        device: where tensors live.
        bf16: whether forward passes run under bfloat16 autocast.
    """

    device: torch.device
    bf16: bool

    @classmethod
    def resolve(cls, device: str = "auto", precision: Precision = "auto") -> "Compute":
        """Choose what this machine is fast at.

        Args:
            device: ``auto`` takes CUDA where there is one, else the CPU; or any torch device.
            precision: ``auto`` takes bfloat16 where the device computes it natively.
        """
        found = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        return cls(device=found, bf16=_is_bf16_native(found) if precision == "auto" else precision == "bf16")

    @property
    def precision(self) -> str:
        """``bf16`` or ``fp32``; part of every cache key, because results depend on it."""
        return "bf16" if self.bf16 else "fp32"

    def autocast(self) -> AbstractContextManager[None]:
        """Context of a forward pass."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def place(self, model: nn.Module) -> nn.Module:
        """Move a network to the device in place, weights of four dimensions in channels_last order.

        For networks that nobody else holds; see :meth:`lent` for all others.
        """
        tensors = list(_distinct(model.to(self.device)))
        memories = Counter(tensor.untyped_storage().data_ptr() for tensor in tensors)
        for tensor in tensors:
            if memories[tensor.untyped_storage().data_ptr()] == 1:  # what others are slices of stays where it is
                tensor.data = self._ordered(tensor.data)
        return model

    def lent(self, model: nn.Module) -> nn.Module:
        """A network of its own for reading somebody else's, which stays as and where it is.

        Modes, flags and devices may be changed without the owner, or another thread that trains or reads
        the same network, noticing. Weights are the owner's own memory where they already lie on the
        device in the order of :meth:`place`, else copies; buffers are copies, because a forward pass may
        write to them. What is tied stays tied.
        """
        shared: dict[int, object] = {}
        for tensor in _distinct(model):
            if isinstance(tensor, nn.Parameter):
                placed = self._ordered(tensor.detach().to(self.device))
                shared[id(tensor)] = nn.Parameter(placed, requires_grad=tensor.requires_grad)
            else:
                placed = self._ordered(tensor.detach().clone().to(self.device))
                shared[id(tensor)] = placed
        return self.place(own_copy(model, shared))  # what a module copies in a way of its own still has to move

    @contextmanager
    def reading(self, model: nn.Module) -> Iterator[nn.Module]:
        """A context in which somebody else's network may be run, in modes of its own; weights must stay.

        It is :meth:`lent`. A network that cannot be copied, because it holds a lock, a session, or a function
        that refers to it, runs itself where it lies on the device already. Then its modes and buffers are put
        back afterwards, what its forward pass keeps in other ways stays kept, and nobody else may use it meanwhile.

        Raises:
            PlanError: it cannot be copied and would have to be moved.
        """
        try:
            lent = self.lent(model)
        except PlanError:
            if any(tensor.device != self._whole_device() for tensor in _distinct(model)):
                raise
        else:
            yield lent
            return
        with (
            _put_back(model),
            torch.inference_mode(False),
            torch.no_grad(),
        ):  # what it keeps must stay of use in training
            yield model

    @contextmanager
    def training(self, model: nn.Module) -> Iterator[None]:
        """A context in which a network trains without two known faults of the CPU's convolutions.

        For strided 1x1 convolutions of few channels in channels_last order, oneDNN computes the
        weights' gradient in a buffer that is too small (its issue 6035): wrong gradients, or a crash.
        Taking every n-th pixel first and convolving them with stride 1 gives the same numbers.
        Depthwise convolutions take four times as long backwards in bfloat16 as in float32 (measured
        with torch 2.14 on a CPU with AMX), so they run in float32.
        """
        replaced = []
        for module in model.modules() if self.device.type == "cpu" else ():
            if not isinstance(module, nn.Conv2d) or "forward" in module.__dict__:
                continue
            if _is_strided_pointwise(module):
                module.forward = partial(_subsample_then_convolve, module)  # type: ignore[method-assign]
            elif self.bf16 and module.groups == module.in_channels > 1:
                module.forward = partial(_in_float32, module)  # type: ignore[method-assign]
            else:
                continue
            replaced.append(module)
        try:
            yield
        finally:
            for module in replaced:
                del module.forward

    def images(self, images: Tensor) -> Tensor:
        """Move frames [B, 3, H, W] to the device in channels_last order."""
        return images.to(self.device, memory_format=torch.channels_last, non_blocking=True)

    def _whole_device(self) -> torch.device:
        """The device as tensors name theirs: ``cuda`` is that with the current index."""
        return torch.empty(0, device=self.device).device

    def _ordered(self, tensor: Tensor) -> Tensor:
        """A tensor in channels_last order where it has four dimensions, the only number that there is one for."""
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def own_copy(model: nn.Module, shared: Mapping[int, object] | None = None, *, is_again: bool = False) -> nn.Module:
    """A deep copy of a network, also where a hook has left it a derived weight with its gradient's history.

    Args:
        model: stays as it is.
        shared: ``id`` of an object -> what the copy has in its place.
        is_again: whether it was copied before, so that its functions need no second look.

    Raises:
        PlanError: it holds what cannot be copied, such as a lock or an open file; or a function, such as a hook,
            that refers to a part of it and would do so in the copy, see :mod:`gearnn.machine.foreign`.
    """
    memo, theirs = dict(shared or {}), held(model)
    for key, value in theirs.items():  # such as `weight` under torch.nn.utils.weight_norm, or kept features
        if isinstance(value, Tensor) and not value.is_leaf and key not in memo:
            memo[key] = value.detach().clone()
    try:
        copied = copy.deepcopy(model, memo)
    except Exception as error:  # whatever a module keeps
        what = f"{type(error).__name__}: {error}"
        raise PlanError(f"network: expected one that copy.deepcopy can copy, but it raised {what}") from error
    if not is_again:
        check_nothing_foreign(copied, theirs)
    return copied


@contextmanager
def _put_back(model: nn.Module) -> Iterator[None]:
    """A context after which modes and buffers are what they were."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, None if is_lazy(buffer) else buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        for module, mode in modes:  # parents first; some drop derived weights when they are set to train
            module.train(mode)
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for module, name, buffer, before in buffers:
                module._buffers[name] = buffer
                if before is not None and not torch.equal(buffer, before):
                    buffer.copy_(before)


def _distinct(model: nn.Module) -> Iterator[Tensor]:
    """Every parameter and buffer once; those that a lazy module has not made yet are left out."""
    return (t for t in (*model.parameters(), *model.buffers()) if not is_lazy(t))


def _is_strided_pointwise(module: nn.Conv2d) -> bool:
    plain = type(module).forward is nn.Conv2d.forward  # a subclass may pad, or scale its weight
    return plain and module.kernel_size == (1, 1) and module.stride != (1, 1) and module.padding in ((0, 0), "valid")


def _subsample_then_convolve(module: nn.Conv2d, x: Tensor) -> Tensor:
    rows, columns = module.stride
    return F.conv2d(x[..., ::rows, ::columns], module.weight, module.bias, groups=module.groups)


def _in_float32(module: nn.Conv2d, x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        convolved: Tensor = type(module).forward(module, x.float())
    return convolved


def _is_bf16_native(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False
