"""Adaptors A*_q: the fine-tuned tensors of the chosen layers, in a file that is bound to its base.

The file is safetensors, so reading it runs no code. Its header says which base (by fingerprint),
which level, under which bound and BatchNorm policy, and which layers; an adaptor refuses every base
but its own.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from gearnn.adaptor_facts import flaw_of, flaw_of_header, lost_by_rounding
from gearnn.distortions import Calibration
from gearnn.errors import AdaptorError, LevelError
from gearnn.folding import fold
from gearnn.layers import BatchNormStatistics, Layer, aliases, fingerprint, statistics_of, stored_tensors, unusable
from gearnn.levels import DistortionLevel
from gearnn.machine.sharing import like, sharing_copy, under_first_names
from gearnn.store.files import written_whole

FORMAT_VERSION = "1"
_HEADER = "gearnn.adaptor"
_KEYS = {
    *("format_version", "level", "base_fingerprint", "layers", "bound", "batchnorm_statistics", "tensors", "notes"),
    *("calibration", "sha256"),
}


@dataclass(frozen=True, kw_only=True)
class Adaptor:
    """What to swap into a base at one distortion level.

    Attributes:
        level: the level q it was fine-tuned for.
        base_fingerprint: :func:`gearnn.layers.fingerprint` of the base it belongs to.
        layers: names of the chosen layers S, in the base's order.
        bound: M under which they were chosen, in values.
        batchnorm_statistics: which running statistics it carries.
        tensors: name in the base -> float32 tensor that replaces it.
        notes: free facts (digests of plan and data), kept in the header.
        calibration: what the level's kinds measured on frames of this level and on undistorted ones,
            where levels are sensed by comparison.
    """

    level: DistortionLevel
    base_fingerprint: str
    layers: tuple[str, ...]
    bound: int
    batchnorm_statistics: BatchNormStatistics
    tensors: Mapping[str, Tensor]
    notes: Mapping[str, str] = field(default_factory=dict)
    calibration: tuple[Calibration, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            AdaptorError: a value that is NaN or infinite, a tensor that is not float32, more values than the
                bound, layers without a tensor, or facts of another type or range.
        """
        if flaw := flaw_of(self):
            raise AdaptorError(f"adaptor {self.level}: {flaw}")

    @classmethod
    def extract(
        cls,
        base: nn.Module,
        finetuned: nn.Module,
        layers: Sequence[Layer],
        level: DistortionLevel | str,
        *,
        bound: int | None = None,
        batchnorm_statistics: BatchNormStatistics = "folded",
        notes: Mapping[str, str] | None = None,
    ) -> "Adaptor":
        """Take the chosen layers out of a partially fine-tuned network.

        Args:
            base: the network that was fine-tuned.
            finetuned: the result; float32 also where the base has another precision, see
                :func:`gearnn.finetune.finetune`.
            layers: S, of ``base``.
            level: q.
            bound: M in values; None takes the adaptor's own size.
            batchnorm_statistics: the policy of the fine-tune; ``layers`` must have been listed under it.
            notes: facts to keep in the header.

        Raises:
            AdaptorError: the adaptor exceeds its bound, the networks differ outside of it, a value is NaN,
                infinite or beyond float32's range, or moved statistics do not fold (:func:`gearnn.folding.fold`).
            CheckpointError: the base has such a value.
        """
        names = [name for layer in layers for name in layer.stored(batchnorm_statistics)]
        if batchnorm_statistics == "all":
            names += list(statistics_of(base))
        state, after = base.state_dict(), finetuned.state_dict()
        for name in names:
            _check_after(state[name], after.get(name), name)
        tied = aliases(base)
        folding = [layer for layer in layers if layer.folds and batchnorm_statistics == "folded"]
        moved = names + [name for layer in folding for name in layer.statistics]
        _check_outside(state, after, {alias for name in moved for alias in tied.get(name, [name])})
        values = {name: after[name].detach().cpu().float() for name in names} | _folded(base, finetuned, folding)
        return cls(
            level=DistortionLevel.parse(level),
            base_fingerprint=fingerprint(base),
            layers=tuple(layer.name for layer in layers),
            bound=sum(state[name].numel() for name in names) if bound is None else bound,
            batchnorm_statistics=batchnorm_statistics,
            tensors={name: values[name].contiguous().clone() for name in names},
            notes=dict(notes or {}),
        )

    @property
    def num_values(self) -> int:
        """Values that the adaptor stores."""
        return sum(tensor.numel() for tensor in self.tensors.values())

    def to_bytes(self) -> bytes:
        """The adaptor as a safetensors file; equal adaptors give equal bytes."""
        header = {
            "format_version": FORMAT_VERSION,
            "level": str(self.level),
            "base_fingerprint": self.base_fingerprint,
            "layers": list(self.layers),
            "bound": self.bound,
            "batchnorm_statistics": self.batchnorm_statistics,
            "tensors": {name: list(tensor.shape) for name, tensor in sorted(self.tensors.items())},
            "notes": dict(self.notes),
        }
        if self.calibration:
            header["calibration"] = [calibration.to_json() for calibration in self.calibration]
        header["sha256"] = _digest(header, self.tensors)
        return save(dict(sorted(self.tensors.items())), metadata={_HEADER: json.dumps(header, sort_keys=True)})

    @property
    def sha256(self) -> str:
        """Digest of :meth:`to_bytes`."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the adaptor as a safetensors file, whole or not at all.

        Raises:
            StoreError: the folder may not be written to, or the disk is full.
        """
        content = self.to_bytes()
        with written_whole(Path(path)) as file:
            file.write(content)

    @classmethod
    def load(cls, path: str | Path) -> "Adaptor":
        """Read an adaptor.

        Raises:
            AdaptorError: no such file, no adaptor, an unknown format, tensors that its header does not
                announce, values that are NaN or infinite, a header that contradicts itself, or bytes that are
                not as they were written.
        """
        path = Path(path)
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {}).get(_HEADER, "null"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except (SafetensorError, OSError) as error:
            raise AdaptorError(f"adaptor {path}: expected a safetensors file, but got: {error}") from error
        except (ValueError, RecursionError) as error:  # no JSON, numbers of thousands of digits, deep nesting
            raise AdaptorError(f"adaptor {path}: expected a header of JSON, but got: {error}") from error
        if not isinstance(header, dict):
            raise AdaptorError(f"adaptor {path}: expected the header of an adaptor, but these are plain tensors")
        if header.get("format_version") != FORMAT_VERSION:
            raise AdaptorError(
                f"adaptor {path}: expected format {FORMAT_VERSION}, but got {header.get('format_version')!r}"
            )
        return _from_header(header, tensors, path)

    def check(self, base: nn.Module, base_fingerprint: str | None = None) -> None:
        """Make sure that this adaptor belongs to a base.

        Args:
            base: the network to adapt.
            base_fingerprint: its fingerprint, where the caller has it already; None computes it.

        Raises:
            AdaptorError: another base; a tensor that the base lacks, or has in another shape; or a base in half
                precision, in which the adaptor's values overflow, or all round to those of the base.
        """
        found = base_fingerprint or fingerprint(base)
        if found != self.base_fingerprint:
            raise AdaptorError(
                f"adaptor {self.level}: expected the base with fingerprint {self.base_fingerprint[:16]}..., "
                f"but got one with {found[:16]}...; adaptors fit only the base they were fine-tuned from"
            )
        self._check_tensors(base.state_dict())

    def apply(
        self,
        base: nn.Module,
        base_fingerprint: str | None = None,
        *,
        share_modules: bool = False,
        apart: Collection[str] = (),
    ) -> nn.Module:
        """The network of this level: a module tree of its own that shares the base's tensors but for the adaptor's.

        Args:
            base: stays as it is.
            base_fingerprint: as for :meth:`check`.
            share_modules: see :func:`gearnn.machine.sharing.sharing_copy`.
            apart: names of further tensors that are not shared.
        """
        self.check(base, base_fingerprint)
        state = stored_tensors(base)
        own = {name: like(tensor, state[name]) for name, tensor in under_first_names(self.tensors, base).items()}
        return sharing_copy(base, own, share_modules=share_modules, apart=apart)

    def _check_tensors(self, state: Mapping[str, Tensor]) -> None:
        for name, tensor in self.tensors.items():
            if name not in state:
                raise AdaptorError(f"adaptor {self.level}: tensor {name} is not in the base")
            if tensor.shape != state[name].shape:
                raise AdaptorError(
                    f"adaptor {self.level}: expected {name} of shape {list(state[name].shape)}, "
                    f"but got {list(tensor.shape)}"
                )
        if why := lost_by_rounding(self.tensors, state):
            raise AdaptorError(f"adaptor {self.level}: expected a base in float32, as load_model gives it, but {why}")


def _folded(base: nn.Module, finetuned: nn.Module, layers: Sequence[Layer]) -> dict[str, Tensor]:
    """Scale and shift, by name, of layers whose statistics moved."""
    found: dict[str, Tensor] = {}
    for layer in layers:
        path = layer.weights[0].rpartition(".")[0]
        values = fold(path, base.get_submodule(path), finetuned.get_submodule(path))
        found |= {name: values[name.rpartition(".")[2]] for name in layer.weights}
    return found


def _from_header(header: Mapping[str, object], tensors: Mapping[str, Tensor], path: Path) -> Adaptor:
    announced = header.get("tensors")
    if not isinstance(announced, dict):
        raise AdaptorError(f"adaptor {path}: its header lists no tensors")
    for name in sorted(announced.keys() ^ tensors.keys()):
        raise AdaptorError(f"adaptor {path}: tensor {name} is {'missing' if name in announced else 'unexpected'}")
    for name, tensor in tensors.items():
        if list(tensor.shape) != announced[name]:
            raise AdaptorError(f"adaptor {path}: expected {name} {announced[name]}, but got {list(tensor.shape)}")
    if flaw := flaw_of_header(header):
        raise AdaptorError(f"adaptor {path}: {flaw}")
    try:
        adaptor = Adaptor(
            level=DistortionLevel.parse(str(header["level"])),
            base_fingerprint=str(header["base_fingerprint"]),
            layers=tuple(header["layers"]),  # type: ignore[arg-type]
            bound=int(header["bound"]),  # type: ignore[call-overload]
            batchnorm_statistics=header["batchnorm_statistics"],  # type: ignore[arg-type]
            tensors=dict(tensors),
            notes=dict(header.get("notes") or {}),  # type: ignore[call-overload]
            calibration=_calibrations(header.get("calibration")),
        )
    except AdaptorError as error:
        raise AdaptorError(f"adaptor {path}: {str(error).partition(': ')[2]}") from error
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError, LevelError) as error:
        raise AdaptorError(f"adaptor {path}: its header is incomplete: {error}") from error
    has_digest = "sha256" in header  # adaptors of before have none
    if not header.keys() <= _KEYS or (has_digest and header["sha256"] != _digest(header, tensors)):
        raise AdaptorError(f"adaptor {path}: its bytes were altered after it was written; take another copy of it")
    return adaptor


def _digest(header: Mapping[str, object], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of all that a file says and holds, in hexadecimal; the digest's own field aside."""
    said = {key: value for key, value in header.items() if key != "sha256"}
    total = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for _, tensor in sorted(tensors.items()):
        total.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def _calibrations(listed: object) -> tuple[Calibration, ...]:
    if listed is not None and not isinstance(listed, list):
        raise TypeError(f"expected its calibration as a list, but got {listed!r}")
    return tuple(map(Calibration.from_json, listed or ()))


def _check_after(before: Tensor, after: Tensor | None, name: str) -> None:
    if not isinstance(after, Tensor) or after.shape != before.shape:
        came = list(after.shape) if isinstance(after, Tensor) else "none"
        raise AdaptorError(f"expected the fine-tuned network to have {name} {list(before.shape)}, but got {came}")
    if why := unusable(name, nn.Parameter(after, requires_grad=False)):
        raise AdaptorError(f"expected a fine-tuned network of finite values that fit float32, but {name} has {why}")


def _check_outside(before: Mapping[str, Tensor], after: Mapping[str, Tensor], inside: set[str]) -> None:
    """The base must be as it was outside of the adaptor, else the adaptor would not hold the whole.

    Bit by bit, in float32 where the fine-tune has brought the network from another precision to it.
    """
    for name, tensor in before.items():
        if name in inside or not isinstance(tensor, Tensor):
            continue
        found = after.get(name)
        if not isinstance(found, Tensor) or not _is_same(tensor.cpu(), found.cpu()):
            raise AdaptorError(f"expected {name} to be as in the base, because it is not part of the adaptor")


def _is_same(before: Tensor, after: Tensor) -> bool:
    if before.dtype != after.dtype and before.is_floating_point() and after.dtype == torch.float32:
        before = before.float()
    return before.dtype == after.dtype and torch.equal(before, after)
