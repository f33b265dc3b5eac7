import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from gearnn.adaptor import Adaptor
from gearnn.distortions import Calibration
from gearnn.errors import AdaptorError
from gearnn.layers import Layer, fingerprint, layers_of, named
from gearnn.levels import DistortionLevel


def tune(base: nn.Module, names: list[str]) -> tuple[nn.Module, list[Layer]]:
    tuned = copy.deepcopy(base)
    layers = named(layers_of(base), names)
    with torch.no_grad():
        for layer in layers:
            for name in layer.weights:
                tuned.get_parameter(name).add_(0.5)
    return tuned, layers


@pytest.fixture
def adaptor(tiny: nn.Module) -> Adaptor:
    tuned, layers = tune(tiny, ["bn", "head"])
    return Adaptor.extract(tiny, tuned, layers, "jpeg:quality=10", bound=60, notes={"data": "d"})


def test_an_adaptor_comes_back_from_its_file(adaptor: Adaptor, tmp_path: Path) -> None:
    adaptor.save(tmp_path / "a.safetensors")
    again = Adaptor.load(tmp_path / "a.safetensors")
    assert (again.level, again.layers, again.bound, again.notes) == (adaptor.level, ("bn", "head"), 60, {"data": "d"})
    assert again.base_fingerprint == adaptor.base_fingerprint
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in adaptor.tensors.items())
    assert again.sha256 == adaptor.sha256
    assert again.num_values == 8 + 45


def test_calibration_travels_with_the_adaptor(adaptor: Adaptor, tmp_path: Path) -> None:
    measured = Calibration(
        kind="brightness",
        level=DistortionLevel.parse("brightness:factor=0.3"),
        features=("one", "two"),
        mean=(1.5, -2.0),
        covariance=((1.0, 0.25), (0.25, 2.0)),
        num_frames=3,
    )
    calibrated = replace(adaptor, calibration=(measured,))
    calibrated.save(tmp_path / "a.safetensors")
    assert Adaptor.load(tmp_path / "a.safetensors").calibration == (measured,)
    assert calibrated.sha256 != adaptor.sha256


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": None}, "its header is incomplete"),
        ({"mean": [1.0]}, "expected a mean and a covariance of 2 features"),
        ({"covariance": [[1.0, 2.0]]}, "expected a mean and a covariance of 2 features"),
        ({"mean": [1.0, float("nan")]}, "expected finite calibration values"),
        ({"level": "fog:density=1"}, "unknown distortion 'fog'"),
        ({"level": None}, "its header is incomplete"),
    ],
)
def test_a_damaged_calibration_is_told(
    adaptor: Adaptor, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    good = {"kind": "brightness", "level": "brightness:factor=0.3", "features": ["one", "two"], "num_frames": 3}
    calibration = good | {"mean": [1.5, -2.0], "covariance": [[1.0, 0.0], [0.0, 1.0]]} | changes
    adaptor.save(tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["gearnn.adaptor"]) | {"calibration": [calibration]}
    save_file(dict(adaptor.tensors), tmp_path / "b.safetensors", {"gearnn.adaptor": json.dumps(header)})
    with pytest.raises(AdaptorError, match=message):
        Adaptor.load(tmp_path / "b.safetensors")


def test_the_header_tells_what_it_is_bound_to(adaptor: Adaptor, tiny: nn.Module, tmp_path: Path) -> None:
    adaptor.save(tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["gearnn.adaptor"])
    assert header["base_fingerprint"] == fingerprint(tiny)
    assert {"format_version", "level", "bound", "layers", "batchnorm_statistics", "tensors"} <= header.keys()


def test_applied_it_gives_the_tuned_network_and_shares_the_rest(tiny: nn.Module) -> None:
    tuned, layers = tune(tiny, ["head"])
    before = copy.deepcopy(tiny.state_dict())
    view = Adaptor.extract(tiny, tuned, layers, "jpeg:quality=10").apply(tiny)
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(view(x), tuned(x))
    assert view.conv.weight is tiny.conv.weight
    assert view.head.weight.data_ptr() != tiny.head.weight.data_ptr()
    assert all(torch.equal(value, before[name]) for name, value in tiny.state_dict().items())


def test_another_base_is_refused_with_both_fingerprints(adaptor: Adaptor, tiny: nn.Module) -> None:
    other = copy.deepcopy(tiny)
    with torch.no_grad():
        other.conv.weight[0, 0, 0, 0] += 1e-3
    with pytest.raises(AdaptorError) as caught:
        adaptor.apply(other)
    assert fingerprint(tiny)[:16] in str(caught.value)
    assert fingerprint(other)[:16] in str(caught.value)


def test_changes_outside_of_the_adaptor_are_refused(tiny: nn.Module) -> None:
    tuned, layers = tune(tiny, ["head"])
    tuned.bn.running_mean[0] += 1e-6
    with pytest.raises(AdaptorError, match=r"expected bn\.running_mean to be as in the base"):
        Adaptor.extract(tiny, tuned, layers, "jpeg:quality=10")


def test_the_bound_is_never_exceeded(tiny: nn.Module) -> None:
    tuned, layers = tune(tiny, ["head"])
    with pytest.raises(AdaptorError, match="expected at most 44 values, but its layers hold 45"):
        Adaptor.extract(tiny, tuned, layers, "jpeg:quality=10", bound=44)


@pytest.mark.parametrize(("policy", "extra"), [("frozen", 0), ("selected", 8), ("all", 8)])
def test_statistics_belong_to_the_adaptor_as_the_policy_says(tiny: nn.Module, policy: str, extra: int) -> None:
    tuned, layers = tune(tiny, ["bn"])
    found = Adaptor.extract(tiny, tuned, layers, "jpeg:quality=10", batchnorm_statistics=policy)  # type: ignore[arg-type]
    assert found.num_values == 8 + extra


def rewrite(path: Path, **changes: torch.Tensor | None) -> None:
    """Change tensors of an adaptor's file but not its header."""
    with safe_open(path, framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    for name, tensor in changes.items():
        key = name.replace("__", ".")
        tensors.pop(key, None)
        if tensor is not None:
            tensors[key] = tensor
    save_file(tensors, path, metadata=metadata)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bn__weight": None}, "tensor bn.weight is missing"),
        ({"extra": torch.zeros(1)}, "tensor extra is unexpected"),
        ({"bn__weight": torch.zeros(5)}, r"expected bn.weight \[4\], but got \[5\]"),
        ({"bn__weight": torch.zeros(4).half()}, "expected bn.weight as float32, but got torch.float16"),
    ],
)
def test_a_tampered_file_is_refused(
    adaptor: Adaptor, tmp_path: Path, changes: dict[str, torch.Tensor | None], message: str
) -> None:
    path = tmp_path / "a.safetensors"
    adaptor.save(path)
    rewrite(path, **changes)
    with pytest.raises(AdaptorError, match=message):
        Adaptor.load(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(AdaptorError, match="expected a safetensors file"):
        Adaptor.load(path)
    path.write_bytes(b"garbage")
    with pytest.raises(AdaptorError, match="expected a safetensors file"):
        Adaptor.load(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(AdaptorError, match="these are plain tensors"):
        Adaptor.load(path)
    save_file({"a": torch.zeros(1)}, path, metadata={"gearnn.adaptor": '{"format_version": "9"}'})
    with pytest.raises(AdaptorError, match="expected format 1, but got '9'"):
        Adaptor.load(path)
