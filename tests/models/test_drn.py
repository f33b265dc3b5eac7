import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gearnn.errors import CheckpointError
from gearnn.layers import fingerprint, model_size
from gearnn.models import load_model, read_checkpoint, save_checkpoint
from gearnn.models.drn import ARCHITECTURES, bilinear_kernel


@pytest.mark.parametrize(("name", "values"), [("drn_d_22", 15_907_139), ("drn_d_38", 26_022_723)])
def test_sizes_are_those_of_table_1(name: str, values: int) -> None:
    assert model_size(load_model(name, 19)) == values


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_gives_scores_of_the_input_size(name: str) -> None:
    with torch.inference_mode():
        assert load_model(name, 5)(torch.zeros(1, 3, 16, 24)).shape == (1, 5, 16, 24)


def test_names_are_those_of_the_authors_checkpoints() -> None:
    names = set(load_model("drn_d_22", 19).state_dict())
    for name in ("base.0.0.weight", "base.0.1.running_var", "base.3.0.conv1.weight", "base.3.0.downsample.0.weight"):
        assert name in names
    assert {"base.6.1.bn2.bias", "base.7.0.weight", "base.8.1.weight", "seg.weight", "seg.bias", "up.weight"} <= names
    assert not any(name.startswith("base.9") for name in names)


def test_upsampling_is_bilinear_and_fixed() -> None:
    model = load_model("drn_d_22_quarter", 3)
    assert not model.up.weight.requires_grad
    assert model.up.weight.numel() == 3 * 16 * 16
    flat = torch.ones(1, 3, 6, 6)
    inner = model.up(flat)[:, :, 8:-8, 8:-8]
    assert torch.allclose(inner, torch.ones_like(inner), atol=1e-6)
    assert torch.equal(bilinear_kernel(16), bilinear_kernel(16).flip(0).flip(1))


def test_dilation_keeps_the_stride_at_eight() -> None:
    with torch.inference_mode():
        assert load_model("drn_d_22", 2).base(torch.zeros(1, 3, 64, 64)).shape == (1, 512, 8, 8)


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = load_model("drn_d_22_quarter", 4)
    save_checkpoint(tmp_path / "a.safetensors", model, {"mean": "0,0,0"})
    assert fingerprint(load_model("drn_d_22_quarter", 4, tmp_path / "a.safetensors")) == fingerprint(model)
    assert read_checkpoint(tmp_path / "a.safetensors").metadata == {"mean": "0,0,0"}


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}}])
def test_torch_files_of_the_authors_load(tmp_path: Path, wrap: object) -> None:
    model = load_model("drn_d_22_quarter", 4)
    torch.save(wrap(model.state_dict()), tmp_path / "a.pth")  # type: ignore[operator]
    assert fingerprint(load_model("drn_d_22_quarter", 4, tmp_path / "a.pth")) == fingerprint(model)


def test_missing_unexpected_and_wrongly_shaped_tensors_are_named(tmp_path: Path) -> None:
    state = dict(load_model("drn_d_22_quarter", 4).state_dict())
    del state["seg.bias"]
    state["extra"] = torch.zeros(2)
    state["seg.weight"] = torch.zeros(5, 128, 1, 1)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(CheckpointError) as caught:
        load_model("drn_d_22_quarter", 4, tmp_path / "a.pth")
    for part in (
        "missing seg.bias [4]",
        "unexpected extra [2]",
        "seg.weight should be [4, 128, 1, 1] but is [5, 128, 1, 1]",
    ):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, ("bomb-went-off",)


def test_a_pickle_is_refused_and_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pth").write_bytes(pickle.dumps(_Bomb()))
    (tmp_path / "a.safetensors").write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(CheckpointError, match="expected a torch file that holds tensors only"):
        load_model("drn_d_22_quarter", 4, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="expected a safetensors file"):
        load_model("drn_d_22_quarter", 4, tmp_path / "a.safetensors")
    assert not (tmp_path / "bomb-went-off").exists()


def test_other_wrong_checkpoints_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load_model("drn_d_22_quarter", 4, tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="unknown network 'resnet'; expected one of drn_d_22"):
        load_model("resnet", 4)
    state = {k: v.clone() for k, v in load_model("drn_d_22_quarter", 4).state_dict().items()}
    state["seg.bias"][1] = float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    with pytest.raises(CheckpointError, match=r"seg\.bias has NaN"):
        load_model("drn_d_22_quarter", 4, tmp_path / "nan.safetensors")


@pytest.mark.data
def test_the_supplied_base_loads_and_has_the_size_that_its_readme_tells(shared: Path) -> None:
    base = load_model("drn_d_22", 11, shared / "models" / "drn_d_22_camvid.safetensors")
    assert model_size(base) == 15_900_987
