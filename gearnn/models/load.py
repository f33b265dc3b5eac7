"""Reading a pre-trained DNN: a network by name, and its weights from a file that runs no code."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gearnn.errors import CheckpointError
from gearnn.models import drn

_SAFETENSORS_SUFFIX = ".safetensors"
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


def model_names() -> tuple[str, ...]:
    """Names that :func:`load_model` knows."""
    return tuple(drn.names())


def load_model(name: str, num_classes: int, checkpoint: str | Path | None = None) -> nn.Module:
    """Build a network and, where a checkpoint is given, load its weights.

    Args:
        name: a name of :func:`model_names`.
        num_classes: number of classes that the head tells apart.
        checkpoint: a safetensors file, or a torch file holding tensors only; every tensor of the
            network must be in it and nothing else (``num_batches_tracked`` aside).

    Returns:
        The network on the CPU in float32, in evaluation mode.

    Raises:
        CheckpointError: unknown name, unreadable file, or tensors that are missing, unexpected or of
            another shape; they are named.
    """
    if name not in model_names():
        raise CheckpointError(f"unknown network {name!r}; expected one of {', '.join(model_names())}")
    model: nn.Module = drn.DRN(name, num_classes)
    if checkpoint is not None:
        _load_into(model, read_checkpoint(checkpoint).tensors, name=name, source=Path(checkpoint))
    return model.eval()


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read the tensors of a checkpoint; nothing in the file is executed.

    Args:
        path: ``.safetensors``, or a torch file with a dictionary of tensors at its top or under the
            key ``state_dict`` or ``model``; a leading ``module.`` of the names is dropped.

    Raises:
        CheckpointError: no such file, damaged, or a pickle that holds more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path}: no such file")
    if path.suffix == _SAFETENSORS_SUFFIX:
        return _read_safetensors(path)
    return Checkpoint(_read_torch(path))


def save_checkpoint(path: str | Path, model: nn.Module, metadata: Mapping[str, str] | None = None) -> None:
    """Write a network's tensors as safetensors; the inverse of :func:`read_checkpoint`."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items() if not k.endswith(_IGNORED)}
    save_file(tensors, path, metadata=dict(metadata or {}))


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
        reason = str(error).strip().split("\n")[0][:200]
        raise CheckpointError(
            f"checkpoint {path}: expected a torch file that holds tensors only, but got: {reason}; "
            f"files that would run code are never loaded, save the weights as safetensors instead"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(f"checkpoint {path}: expected a dictionary of tensors, but got {type(content).__name__}")
    return {str(k).removeprefix("module."): v for k, v in content.items() if not str(k).endswith(_IGNORED)}


def _load_into(model: nn.Module, tensors: Mapping[str, Tensor], *, name: str, source: Path) -> None:
    expected = {k: v for k, v in model.state_dict().items() if not k.endswith(_IGNORED)}
    problems = [f"missing {k} {list(v.shape)}" for k, v in expected.items() if k not in tensors]
    problems += [f"unexpected {k} {list(v.shape)}" for k, v in tensors.items() if k not in expected]
    problems += [
        f"{k} should be {list(expected[k].shape)} but is {list(v.shape)}"
        for k, v in tensors.items()
        if k in expected and v.shape != expected[k].shape
    ]
    if problems:
        shown = "; ".join(problems[:6]) + (f"; and {len(problems) - 6} more" if len(problems) > 6 else "")
        raise CheckpointError(f"checkpoint {source}: does not fit {name} with these classes: {shown}")
    nonfinite = [k for k, v in tensors.items() if v.is_floating_point() and not bool(torch.isfinite(v).all())]
    if nonfinite:
        raise CheckpointError(f"checkpoint {source}: expected finite values, but {nonfinite[0]} has NaN or infinity")
    model.load_state_dict({k: v.float() for k, v in tensors.items()}, strict=False)
