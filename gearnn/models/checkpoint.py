"""Checkpoints: the weights of a network in a file that runs no code."""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gearnn.errors import CheckpointError
from gearnn.layers import check_finite
from gearnn.store.files import placed_whole

_SAFETENSORS_SUFFIX = ".safetensors"
_WEIGHTS = ("state_dict", "model_state_dict", "model")
_WRAPPERS = ("module.", "_orig_mod.")  # of DataParallel and torch.compile
_SHOWN = 8
_IGNORED = "num_batches_tracked"  # counts steps, takes no part in inference


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors of a network, and what the file says about them.

    Attributes:
        tensors: name -> tensor, ``num_batches_tracked`` left out.
        metadata: the header of a safetensors file; empty for torch files.
    """

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read the tensors of a checkpoint; nothing in the file is executed.

    Args:
        path: ``.safetensors``, or a torch file with a dictionary of tensors at its top or under the
            key ``state_dict``, ``model_state_dict`` or ``model``; ``module.`` and ``_orig_mod.`` before all names
            are dropped.

    Raises:
        CheckpointError: no such file, damaged, or a pickle that holds more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path}: no such file")
    if path.suffix == _SAFETENSORS_SUFFIX:
        return _read_safetensors(path)
    return Checkpoint(_read_torch(path))


def read_metadata(path: str | Path) -> dict[str, str]:
    """What the header of a safetensors file says, without its tensors; nothing for torch files, which have none.

    Raises:
        CheckpointError: as for :func:`read_checkpoint`.
    """
    path = Path(path)
    if path.suffix != _SAFETENSORS_SUFFIX:
        return {}
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"checkpoint {path}: expected a safetensors file, but got: {error}") from error


def save_checkpoint(path: str | Path, model: nn.Module, metadata: Mapping[str, str] | None = None) -> None:
    """Write a network's tensors as safetensors, whole or not at all; the inverse of :func:`read_checkpoint`.

    Tied tensors are written under each of their names.

    Raises:
        CheckpointError: a value is NaN, infinite, or of float64 and beyond float32's range.
        StoreError: the folder may not be written to, or the disk is full.
    """
    check_finite(model, f"checkpoint {path}")
    tensors = {k: v.detach().cpu().contiguous() for k, v in named_tensors(model).items()}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        if tensor.data_ptr() in seen:  # safetensors refuses tensors that share memory
            tensors[name] = tensor.clone()
        seen.add(tensor.data_ptr())
    with placed_whole(Path(path)) as written:
        save_file(tensors, written, metadata=dict(metadata or {}))


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint holds of a network: its tensors but for ``num_batches_tracked``."""
    state = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    return {name: tensor for name, tensor in state.items() if not name.endswith(_IGNORED)}


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"checkpoint {path}: expected a safetensors file, but got: {error}") from error
    return Checkpoint({k: v for k, v in tensors.items() if not k.endswith(_IGNORED)}, metadata)


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # on odd pickle protocols; the error below says more
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises a dozen kinds of errors on files that are none of its own
        raise CheckpointError(
            f"checkpoint {path}: expected a torch file that holds tensors only, but got: {_reason(str(error))}; "
            f"files that would run code are never loaded, save the weights as safetensors instead"
        ) from error
    for key in _WEIGHTS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"checkpoint {path}: expected a dictionary of tensors, but got {type(content).__name__}")
    other = next((key for key, value in content.items() if not isinstance(value, Tensor)), None)
    if other is not None:
        raise CheckpointError(
            f"checkpoint {path}: expected tensors only, or a dictionary of them under {', '.join(_WEIGHTS)}, but got "
            f"{', '.join(map(str, list(content)[:_SHOWN]))}, of which {other} is {type(content[other]).__name__}"
        )
    return _named({str(k): v for k, v in content.items() if not str(k).endswith(_IGNORED)})


def _named(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what wrappers put before every name, and only then: else two tensors might become one."""
    for prefix in _WRAPPERS * len(_WRAPPERS):  # in any order
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _reason(text: str) -> str:
    """What torch says, without colours for terminals; the object that is in the way, where it names one."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text).strip()
    found = re.search(r"Unsupported (?:global: GLOBAL|class) ([\w.]+)", plain)
    return f"an object of {found[1]}" if found else plain.split("\n")[0][:200]
