"""A fine-tune under way: what it moves, in which mode, and the file from which it goes on when it was stopped.

The file holds all that the rest of the training depends on and ends with a digest of it. One that is damaged,
of another job, or otherwise not what is needed costs the epochs that it held and is never taken for another.
"""

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm

from gearnn.errors import DivergedError
from gearnn.layers import BatchNormStatistics, Layer, batchnorms, fingerprint, statistics_of
from gearnn.machine.compute import Compute
from gearnn.recipe import Recipe
from gearnn.store.files import written_whole

_DIGEST = 32
"""Bytes of sha256 at the end of the file."""


class Job:
    """A fine-tune under way.

    Args:
        model: a copy of the base, placed on its device.
        optimizer: of the weights that move.
        trained: those weights by name.
        moving: names of the running statistics that move, see :func:`moving_statistics`.
        recipe: how.
        compute: where, and in which precision.
        checkpoint: file of the state after each epoch; None keeps none.
        facts: what else its result depends on, as JSON values.

    Attributes:
        reached: names of the weights that gradients came to; None before the first.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        trained: Mapping[str, nn.Parameter],
        moving: frozenset[str],
        *,
        recipe: Recipe,
        compute: Compute,
        checkpoint: Path | None,
        facts: Mapping[str, Any],
    ) -> None:
        self.model, self.optimizer, self.trained, self.moving = model, optimizer, trained, moving
        self.recipe, self.checkpoint = recipe, checkpoint
        self.device = compute.device
        self.reached: set[str] | None = None
        identity = {
            "base": fingerprint(model) if checkpoint is not None else "",
            "recipe": asdict(recipe),
            "trained": sorted(trained),
            "moving": sorted(moving),
            "numerics": [compute.device.type, compute.precision],
            **facts,
        }
        self.identity = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def set_mode(self) -> None:
        """Training mode, but running statistics move only where the policy says so.

        Nor do the vectors of spectral norm: an adaptor cannot hold them, so the weights are fitted to those
        of the base, with which they will run.
        """
        self.model.train()
        for module in self.model.modules():
            if isinstance(module, _SpectralNorm):
                module.eval()
        for path, module in batchnorms(self.model):
            module.train(f"{path}.running_mean".lstrip(".") in self.moving)

    def note_reached(self) -> None:
        """Remember which weights have a gradient now."""
        found = {name for name, parameter in self.trained.items() if parameter.grad is not None}
        self.reached = found | (self.reached or set())

    def check_finite(self, epoch: int) -> None:
        """Make sure that an epoch has left nothing that is NaN or infinite.

        Raises:
            DivergedError: a weight, a statistic or the optimiser's state is; the message names it.
        """
        for name, tensor in self._results():
            if not bool(torch.isfinite(tensor).all()):
                raise DivergedError(
                    f"{name} is no longer finite after epoch {epoch + 1}, though the loss was; lower the learning "
                    f"rate, or set clip, and look for operators whose gradient is infinite, such as sqrt at 0"
                )

    def resume(self) -> list[float]:
        """Take up the state of an earlier run of the same job; mean losses of its epochs."""
        if self.checkpoint is None or not self.checkpoint.is_file():
            return []
        try:
            state = _read(self.checkpoint)
            if state["identity"] != self.identity:
                raise ValueError("it is of another fine-tune")
            return self._take(state)
        except Exception as error:  # whatever is odd about it only costs the epochs that it held
            logging.getLogger("gearnn").warning(
                "checkpoint %s: not used, the fine-tune begins anew: %s: %s",
                self.checkpoint, type(error).__name__, str(error).strip().split("\n")[0],
            )  # fmt: skip
            return []

    def save(self, losses: Sequence[float]) -> None:
        """Keep the state after an epoch; a crash while writing leaves the earlier one whole."""
        if self.checkpoint is None:
            return
        state = {
            "identity": self.identity,
            "tensors": self._state(),
            "in_no_file": sorted(self._in_no_file()),
            "optimizer": self.optimizer.state_dict(),
            "losses": list(losses),
        }
        with written_whole(self.checkpoint) as file:
            digesting = _Digesting(file)
            torch.save(state, digesting)  # type: ignore[arg-type]
            file.write(digesting.sha256.digest())

    def _state(self) -> dict[str, Tensor]:
        """The weights that move, and every buffer, since any of them may; looked up now, as modules rebind them."""
        tensors = {name: parameter.detach() for name, parameter in self.trained.items()}
        return tensors | dict(self.model.named_buffers())

    def _results(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self._state().items():
            if name in self.trained or name in self.moving:
                yield name, tensor
        names = {id(parameter): name for name, parameter in self.trained.items()}
        for parameter, state in self.optimizer.state.items():
            for key, value in state.items():
                if isinstance(value, Tensor) and value.is_floating_point():
                    yield f"the optimiser's {key} of {names[id(parameter)]}", value

    def _in_no_file(self) -> Iterator[str]:
        """Names of the buffers that were registered with ``persistent=False``."""
        for path, module in self.model.named_modules():
            yield from (f"{path}.{name}".lstrip(".") for name in module._non_persistent_buffers_set)

    def _take(self, state: Mapping[str, Any]) -> list[float]:
        """Everything is compared before anything is changed.

        Buffers that a forward pass makes, or makes anew in another shape, are set up as the earlier run had them.
        """
        own, losses = self._state(), [float(loss) for loss in state["losses"]]
        given: Mapping[str, Tensor] = state["tensors"]
        fixed = {name for name in own if name in self.trained or name in self.moving}
        for name, tensor in own.items():
            is_same = given[name].shape == tensor.shape and given[name].dtype == tensor.dtype
            if not is_same and name in fixed:
                raise ValueError(f"it has another {name}")
        if len(losses) > self.recipe.epochs or not all(map(math.isfinite, losses)):
            raise ValueError("it has other losses")
        homes = {name: self._home(name) for name in given if name not in fixed}
        self.optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            for name, value in given.items():
                if name in own and own[name].shape == value.shape and own[name].dtype == value.dtype:
                    own[name].copy_(value)
                else:
                    placed, is_stored = value.to(self.device), name not in state["in_no_file"]
                    homes[name].register_buffer(name.rpartition(".")[2], placed, persistent=is_stored)
        return losses

    def _home(self, name: str) -> nn.Module:
        """The module that has, or can have, a buffer of this name."""
        path, _, leaf = name.rpartition(".")
        module = self.model.get_submodule(path)
        if hasattr(module, leaf) and leaf not in module._buffers:
            raise ValueError(f"it has a buffer {name}")
        return module


def moving_statistics(model: nn.Module, layers: Sequence[Layer] | None, policy: BatchNormStatistics) -> frozenset[str]:
    """Names of the running statistics that move, under all names that they have.

    Args:
        model: the network.
        layers: those that are trained; None: all.
        policy: as for :func:`gearnn.finetune.finetune`.
    """
    if policy == "frozen":
        return frozenset()
    everyone = statistics_of(model)
    if layers is not None and policy != "all":
        chosen = {name for layer in layers for name in layer.statistics}
        everyone = {name: tensor for name, tensor in everyone.items() if name in chosen}
    moved = {id(tensor) for tensor in everyone.values()}
    return frozenset(n for n, buffer in model.named_buffers(remove_duplicate=False) if id(buffer) in moved)


class _Digesting:
    """Hashes what is written through it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.sha256 = file, hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.sha256.update(content)
        return self.file.write(content)

    def flush(self) -> None:
        self.file.flush()


def _read(path: Path) -> dict[str, Any]:
    """A state whose digest is right; raises whatever comes of one that is not."""
    sha256, left = hashlib.sha256(), path.stat().st_size - _DIGEST
    with path.open("rb") as file:
        while left > 0:
            content = file.read(min(left, 2**20))
            sha256.update(content)
            left -= len(content)
        if file.read() != sha256.digest():
            raise ValueError("it is damaged, its content does not have its digest")
        file.seek(0)
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return state
