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
from gearnn.layers import fingerprint, layers_of, named
from gearnn.levels import DistortionLevel
from tests.shared.adaptors import tune


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


def test_values_or_words_that_changed_after_the_file_was_written_are_noticed(adaptor: Adaptor, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    adaptor.save(path)
    content = path.read_bytes()
    note = content.index(b"data", content.index(b"notes")) + 10
    for where in (len(content) - 3, note, content.index(b"sha256")):
        damaged = bytearray(content)
        damaged[where] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(AdaptorError, match="its bytes were altered after it was written; take another copy of it"):
            Adaptor.load(path)


def test_an_adaptor_of_before_files_had_a_digest_is_read(adaptor: Adaptor, tmp_path: Path) -> None:
    adaptor.save(tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["gearnn.adaptor"])
    del header["sha256"]
    again = Adaptor.load(with_header(adaptor, tmp_path / "b.safetensors", json.dumps(header)))
    assert again.sha256 == adaptor.sha256


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


@pytest.mark.parametrize(
    ("value", "dtype", "what"),
    [
        (float("nan"), torch.float32, "NaN"),
        (float("-inf"), torch.float32, "infinity"),
        (1e39, torch.float64, "a value beyond float32's range"),
    ],
)
def test_values_that_no_adaptor_can_hold_are_refused(
    tiny: nn.Module, value: float, dtype: torch.dtype, what: str
) -> None:
    tuned, layers = tune(tiny.to(dtype), ["head"])
    with torch.no_grad():
        tuned.head.bias[1] = value  # type: ignore[union-attr, operator, index]
    with pytest.raises(AdaptorError, match=rf"of finite values that fit float32, but head.bias has {what}"):
        Adaptor.extract(tiny, tuned, layers, "jpeg:quality=10")


@pytest.mark.parametrize(("value", "what"), [(float("nan"), "NaN"), (float("inf"), "infinity")])
def test_an_adaptor_that_is_not_finite_can_be_neither_made_nor_read(
    adaptor: Adaptor, tmp_path: Path, value: float, what: str
) -> None:
    bad = torch.full_like(adaptor.tensors["bn.weight"], value)
    with pytest.raises(
        AdaptorError, match=f"^adaptor jpeg:quality=10: expected finite values, but bn.weight has {what}"
    ):
        replace(adaptor, tensors={**adaptor.tensors, "bn.weight": bad})
    path = tmp_path / "a.safetensors"
    adaptor.save(path)
    rewrite(path, bn__weight=bad)
    with pytest.raises(AdaptorError, match=rf"^adaptor {path}: expected finite values, but bn.weight has {what}"):
        Adaptor.load(path)


def with_header(adaptor: Adaptor, path: Path, text: str) -> Path:
    save_file(dict(adaptor.tensors), path, metadata={"gearnn.adaptor": text})
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bound": 52}, "expected at most 52 values, but its layers hold 53"),
        ({"bound": -5}, "expected its bound as a number of values, at least 0, but got -5"),
        ({"bound": 60.0}, "expected its bound as a number of values, at least 0, but got 60.0"),
        ({"bound": True}, "expected its bound as a number"),
        ({"bound": "60"}, "expected its bound as a number"),
        ({"bound": float("inf")}, "expected its bound as a number"),
        ({"bound": 10**4000}, "but got a number of many digits"),
        ({"bound": None}, "its header is incomplete: bound is missing"),
        ({"layers": "bn"}, "expected its layers as a list of names, but got 'bn'"),
        ({"layers": [1, 2]}, "expected its layers as a list of names"),
        ({"layers": ["bn", ""]}, "expected its layers as a list of names"),
        ({"layers": ["bn", "bn", "head"]}, "expected every layer once, but bn is repeated"),
        ({"layers": ["bn", "head", "conv"]}, "expected at least one tensor of layer conv, but got none"),
        ({"layers": ["bn"]}, "expected tensors of its layers only, but head.bias belongs to none of them"),
        ({"level": ["jpeg:quality=10"]}, "expected its level as text"),
        ({"level": "fog:density=1"}, "unknown distortion 'fog'"),
        ({"base_fingerprint": "0" * 63}, "expected its base's fingerprint of 64 hexadecimal digits"),
        ({"base_fingerprint": None}, "base_fingerprint is missing"),
        ({"batchnorm_statistics": "some"}, "unknown BatchNorm policy 'some'; expected one of folded"),
        ({"notes": ["ab"]}, "expected its notes as texts by name"),
        ({"notes": {"data": 1}}, "expected its notes as texts by name"),
        ({"calibration": 5}, "expected its calibration as a list, but got 5"),
        ({"calibration": [{"features": ["one"], "mean": [10**400], "covariance": [[1]]}]}, "its header is incomplete"),
        ({"tensors": 5}, "its header lists no tensors"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(
    adaptor: Adaptor, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    adaptor.save(tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["gearnn.adaptor"]) | changes
    with pytest.raises(AdaptorError, match=message):
        Adaptor.load(with_header(adaptor, tmp_path / "b.safetensors", json.dumps(header)))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"bound": ' + "9" * 5000 + "}", "{"])
def test_a_header_that_is_no_json_of_ours_is_refused(adaptor: Adaptor, tmp_path: Path, text: str) -> None:
    with pytest.raises(AdaptorError, match="expected a header of JSON"):
        Adaptor.load(with_header(adaptor, tmp_path / "b.safetensors", text))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_base_of_another_precision_is_compared_in_float32(tiny: nn.Module, dtype: torch.dtype) -> None:
    base = tiny.to(dtype)
    tuned, layers = tune(copy.deepcopy(base).float(), ["head"])
    assert Adaptor.extract(base, tuned, layers, "jpeg:quality=10").layers == ("head",)
    with torch.no_grad():
        tuned.conv.bias[0] += 1e-6  # type: ignore[union-attr, operator, index]
    with pytest.raises(AdaptorError, match=r"expected conv.bias to be as in the base"):
        Adaptor.extract(base, tuned, layers, "jpeg:quality=10")


def test_a_base_in_half_precision_refuses_changes_that_it_would_round_away(
    tiny: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    base = tiny.to(torch.bfloat16)
    tuned, layers = copy.deepcopy(base).float(), named(layers_of(base), ["head"])
    with torch.no_grad():
        tuned.head.weight += 1e-6  # type: ignore[union-attr, operator]
    with pytest.raises(AdaptorError, match=r"expected a base in float32, .* nothing would be left of the adaptor"):
        Adaptor.extract(base, tuned, layers, "jpeg:quality=10").apply(base)
    with torch.no_grad():
        tuned.head.weight[:3] += 0.5  # type: ignore[union-attr, operator, index]
    Adaptor.extract(base, tuned, layers, "jpeg:quality=10").apply(base)
    assert "an adaptor loses 67 % of its changes in a base of half precision" in caplog.text
    with torch.no_grad():
        tuned.head.weight[0] = 1e5  # type: ignore[union-attr, operator, index]
    half = tiny.half()
    tuned = copy.deepcopy(half).float()
    with torch.no_grad():
        tuned.head.weight[0] = 1e5  # type: ignore[union-attr, operator, index]
    with pytest.raises(AdaptorError, match=r"torch.float16 cannot hold the values of head.weight"):
        Adaptor.extract(half, tuned, layers, "jpeg:quality=10").apply(half)
