"""What an adaptor says of itself, checked wherever one is made or read: types, ranges, and that they agree."""

import logging
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gearnn.layers import BATCHNORM_POLICIES, unusable

if TYPE_CHECKING:
    from gearnn.adaptor import Adaptor

_FINGERPRINT = re.compile("[0-9a-f]{64}")
_LARGEST_BOUND = 2**63 - 1


def flaw_of(adaptor: "Adaptor") -> str:
    """What is wrong with an adaptor, for people; nothing where it agrees with itself."""
    header = {
        "level": str(adaptor.level),
        "base_fingerprint": adaptor.base_fingerprint,
        "layers": list(adaptor.layers),
        "bound": adaptor.bound,
        "batchnorm_statistics": adaptor.batchnorm_statistics,
        "notes": adaptor.notes,
    }
    few = [calibration for calibration in adaptor.calibration if calibration.num_frames < 1]
    if few:
        return f"expected calibration on at least one frame, but {few[0].kind} has {few[0].num_frames}"
    return flaw_of_header(header) or _flaw_of_tensors(adaptor) or _flaw_of_places(adaptor)


def flaw_of_header(header: Mapping[str, Any]) -> str:
    """What is wrong with the values of a header, whatever JSON they come from; nothing where they can be used."""
    level, own, layers, bound, policy, notes = (
        header.get(key)
        for key in ("level", "base_fingerprint", "layers", "bound", "batchnorm_statistics", "notes")
    )  # fmt: skip
    missing = [key for key in ("level", "base_fingerprint", "layers", "bound", "batchnorm_statistics")
               if header.get(key) is None]  # fmt: skip
    if missing:
        return f"its header is incomplete: {', '.join(missing)} is missing"
    if not isinstance(level, str):
        return f"expected its level as text, but got {level!r}"
    if not isinstance(own, str) or not _FINGERPRINT.fullmatch(own):
        return f"expected its base's fingerprint of 64 hexadecimal digits, but got {_shown(own)}"
    if not isinstance(layers, list) or not all(isinstance(name, str) and name for name in layers):
        return f"expected its layers as a list of names, but got {_shown(layers)}"
    if len(set(layers)) != len(layers):
        return f"expected every layer once, but {next(name for name in layers if layers.count(name) > 1)} is repeated"
    if not isinstance(bound, int) or isinstance(bound, bool) or not 0 <= bound <= _LARGEST_BOUND:
        return f"expected its bound as a number of values, at least 0, but got {_shown(bound)}"
    if policy not in BATCHNORM_POLICIES:
        return f"unknown BatchNorm policy {policy!r}; expected one of {', '.join(BATCHNORM_POLICIES)}"
    if notes is not None and not _is_text(notes):
        return f"expected its notes as texts by name, but got {_shown(notes)}"
    return ""


def lost_by_rounding(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Why a base in half precision cannot take an adaptor, for people; nothing where it can, or needs not.

    Args:
        tensors: the adaptor's.
        state: the base's. Where it has only some of the changes left, that is logged.
    """
    changed = kept = 0
    for name, tensor in tensors.items():
        old = state[name].detach()
        if torch.finfo(old.dtype).bits >= 32:
            continue
        rounded, before = tensor.to(old.dtype).float(), old.cpu().float()
        if not bool(torch.isfinite(rounded).all()):
            return f"{old.dtype} cannot hold the values of {name}"
        moved = tensor != before
        changed += int(moved.sum())
        kept += int((moved & (rounded != before)).sum())
    if changed and not kept:
        return "its values round to those of the base, so nothing would be left of the adaptor"
    if kept < changed:
        share = 100 * (1 - kept / changed)
        logging.getLogger("gearnn").warning(
            "an adaptor loses %.0f %% of its changes in a base of half precision; load the base in float32", share
        )
    return ""


def _flaw_of_tensors(adaptor: "Adaptor") -> str:
    for name, tensor in adaptor.tensors.items():
        if tensor.dtype != torch.float32:
            return f"expected {name} as float32, but got {tensor.dtype}"
        if why := unusable(name, torch.nn.Parameter(tensor, requires_grad=False)):
            return f"expected finite values, but {name} has {why}"
    if adaptor.num_values > adaptor.bound:
        return f"expected at most {adaptor.bound} values, but its layers hold {adaptor.num_values}"
    return ""


def _flaw_of_places(adaptor: "Adaptor") -> str:
    """Every layer has a tensor, and every tensor has a layer, but for statistics that are held as they are."""
    places = {place for name in adaptor.tensors for place in (name, name.rpartition(".")[0] or "(root)")}
    for layer in adaptor.layers:
        if layer not in places:
            return f"expected at least one tensor of layer {layer}, but got none"
    for name in adaptor.tensors if adaptor.batchnorm_statistics in ("frozen", "folded") else ():
        if not {name, name.rpartition(".")[0] or "(root)"} & set(adaptor.layers):
            return f"expected tensors of its layers only, but {name} belongs to none of them"
    return ""


def _is_text(notes: Any) -> bool:
    return isinstance(notes, Mapping) and all(isinstance(text, str) for item in notes.items() for text in item)


def _shown(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) <= _LARGEST_BOUND else "a number of many digits"
    return text if len(text) <= 80 else f"{text[:77]}..."
