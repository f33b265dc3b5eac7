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

from gearnn.distortions import Calibration
from gearnn.errors import AdaptorError, LevelError
from gearnn.layers import (
    BATCHNORM_POLICIES,
    BatchNormStatistics,
    Layer,
    aliases,
    fingerprint,
    statistics_of,
    stored_tensors,
)
from gearnn.levels import DistortionLevel
from gearnn.sharing import like, sharing_copy, under_first_names

FORMAT_VERSION = "1"
_HEADER = "gearnn.adaptor"


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

    @classmethod
    def extract(
        cls,
        base: nn.Module,
        finetuned: nn.Module,
        layers: Sequence[Layer],
        level: DistortionLevel | str,
        *,
        bound: int | None = None,
        batchnorm_statistics: BatchNormStatistics = "frozen",
        notes: Mapping[str, str] | None = None,
    ) -> "Adaptor":
        """Take the chosen layers out of a partially fine-tuned network.

        Args:
            base: the network that was fine-tuned.
            finetuned: the result.
            layers: S, of ``base``.
            level: q.
            bound: M in values; None takes the adaptor's own size.
            batchnorm_statistics: the policy of the fine-tune.
            notes: facts to keep in the header.

        Raises:
            AdaptorError: the adaptor exceeds its bound, or the networks differ outside of it.
        """
        names = [name for layer in layers for name in layer.stored(batchnorm_statistics)]
        if batchnorm_statistics == "all":
            names += list(statistics_of(base))
        state, after = base.state_dict(), finetuned.state_dict()
        tied = aliases(base)
        _check_outside(state, after, {alias for name in names for alias in tied.get(name, [name])})
        adaptor = cls(
            level=DistortionLevel.parse(level),
            base_fingerprint=fingerprint(base),
            layers=tuple(layer.name for layer in layers),
            bound=sum(state[name].numel() for name in names) if bound is None else bound,
            batchnorm_statistics=batchnorm_statistics,
            tensors={name: after[name].detach().cpu().float().contiguous().clone() for name in names},
            notes=dict(notes or {}),
        )
        if adaptor.num_values > adaptor.bound:
            raise AdaptorError(
                f"adaptor {level}: expected at most {adaptor.bound} values, but its layers hold {adaptor.num_values}"
            )
        return adaptor

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
        return save(dict(sorted(self.tensors.items())), metadata={_HEADER: json.dumps(header, sort_keys=True)})

    @property
    def sha256(self) -> str:
        """Digest of :meth:`to_bytes`."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the adaptor as a safetensors file."""
        Path(path).write_bytes(self.to_bytes())

    @classmethod
    def load(cls, path: str | Path) -> "Adaptor":
        """Read an adaptor.

        Raises:
            AdaptorError: no such file, no adaptor, an unknown format, or tensors that its header
                does not announce.
        """
        path = Path(path)
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {}).get(_HEADER, "null"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except (SafetensorError, OSError, json.JSONDecodeError) as error:
            raise AdaptorError(f"adaptor {path}: expected a safetensors file, but got: {error}") from error
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
            AdaptorError: another base; or a tensor that the base lacks, or has in another shape.
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
            share_modules: see :func:`gearnn.sharing.sharing_copy`.
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


def _from_header(header: Mapping[str, object], tensors: Mapping[str, Tensor], path: Path) -> Adaptor:
    announced = header.get("tensors")
    if not isinstance(announced, dict):
        raise AdaptorError(f"adaptor {path}: its header lists no tensors")
    for name in sorted(announced.keys() ^ tensors.keys()):
        raise AdaptorError(f"adaptor {path}: tensor {name} is {'missing' if name in announced else 'unexpected'}")
    for name, tensor in tensors.items():
        if list(tensor.shape) != announced[name]:
            raise AdaptorError(f"adaptor {path}: expected {name} {announced[name]}, but got {list(tensor.shape)}")
        if tensor.dtype != torch.float32:
            raise AdaptorError(f"adaptor {path}: expected {name} as float32, but got {tensor.dtype}")
    try:
        policy = header["batchnorm_statistics"]
        if policy not in BATCHNORM_POLICIES:
            raise AdaptorError(f"adaptor {path}: unknown BatchNorm policy {policy!r}")
        return Adaptor(
            level=DistortionLevel.parse(str(header["level"])),
            base_fingerprint=str(header["base_fingerprint"]),
            layers=tuple(header["layers"]),  # type: ignore[arg-type]
            bound=int(header["bound"]),  # type: ignore[call-overload]
            batchnorm_statistics=policy,  # type: ignore[arg-type]
            tensors=dict(tensors),
            notes=dict(header.get("notes") or {}),  # type: ignore[call-overload]
            calibration=tuple(map(Calibration.from_json, header.get("calibration") or ())),  # type: ignore[call-overload]
        )
    except (KeyError, TypeError, ValueError, AttributeError, LevelError) as error:
        raise AdaptorError(f"adaptor {path}: its header is incomplete: {error}") from error


def _check_outside(before: Mapping[str, Tensor], after: Mapping[str, Tensor], inside: set[str]) -> None:
    """The base must be bit-identical outside of the adaptor, else the adaptor would not tell the whole."""
    for name, tensor in before.items():
        if name not in inside and isinstance(tensor, Tensor) and not torch.equal(tensor.cpu(), after[name].cpu()):
            raise AdaptorError(f"expected {name} to be as in the base, because it is not part of the adaptor")
