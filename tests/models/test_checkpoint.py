import argparse
import errno
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gearnn.errors import CheckpointError, StoreError
from gearnn.models import read_checkpoint, save_checkpoint
from tests.shared.adaptors import make_adaptor

TENSORS = {"a.weight": torch.ones(2), "b.weight": torch.zeros(3)}


def saved(folder: Path, content: Any) -> Path:
    torch.save(content, folder / "a.pth")
    return folder / "a.pth"


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_checkpoints_as_people_save_them(tmp_path: Path, prefix: str, key: str) -> None:
    tensors = {prefix + name: tensor for name, tensor in TENSORS.items()}
    read = read_checkpoint(saved(tmp_path, {"epoch": 3, key: tensors})).tensors
    assert {name: tensor.tolist() for name, tensor in read.items()} == {"a.weight": [1, 1], "b.weight": [0, 0, 0]}


def test_two_names_never_become_one(tmp_path: Path) -> None:
    """A wrapper's prefix stands before all names, or it belongs to the names."""
    tensors = {"module.a": torch.ones(2), "a": torch.zeros(2)}
    assert set(read_checkpoint(saved(tmp_path, tensors)).tensors) == {"module.a", "a"}


def test_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path, {"state_dict": TENSORS, "args": argparse.Namespace(lr=1)})
    with pytest.raises(CheckpointError, match=r"got: an object of argparse.Namespace; files that would run") as caught:
        read_checkpoint(path)
    assert "\x1b" not in str(caught.value)
    with pytest.raises(CheckpointError, match=r"under state_dict, .*, but got epoch, net, of which epoch is int"):
        read_checkpoint(saved(tmp_path, {"epoch": 1, "net": TENSORS}))


@pytest.mark.parametrize("save", ["base", "adaptor"])
def test_weights_are_saved_whole_or_not_at_all(
    tmp_path: Path, tiny: nn.Module, monkeypatch: pytest.MonkeyPatch, save: str
) -> None:
    path = tmp_path / "weights.safetensors"
    adaptor = make_adaptor(tiny, "jpeg:quality=10", ["bn"])
    write = partial(save_checkpoint, path, tiny) if save == "base" else partial(adaptor.save, path)
    write()
    content = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"weights.safetensors: expected to be able to write there.*free some space"):
        write()
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [(path.name, content)]
