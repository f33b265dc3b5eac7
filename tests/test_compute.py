import copy

import pytest
import torch
from torch import nn

from gearnn.compute import Compute


def gradients(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    model(x).float().square().mean().backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("channels", [3, 8, 12, 16, 40])
@pytest.mark.parametrize("size", [(23, 30), (46, 61), (10, 12)])
def test_strided_pointwise_convolutions_train_as_in_double_precision(channels: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    compute = Compute.resolve("cpu", "fp32")
    model = nn.Conv2d(channels, 2 * channels, 1, stride=2, bias=channels == 12)
    x = torch.randn(7, channels, *size)
    exact = gradients(copy.deepcopy(model).double(), x.double())
    placed = compute.place(model)
    with compute.training(placed):
        found = gradients(placed, compute.images(x))
    for a, b in zip(found, exact, strict=True):
        assert torch.allclose(a.double(), b, rtol=1e-4, atol=1e-6)


def test_outside_of_training_the_network_is_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(8, 4, 1, stride=2), nn.Conv2d(4, 4, 3, stride=2))
    compute = Compute.resolve("cpu", "fp32")
    with compute.training(model):
        assert ["forward" in module.__dict__ for module in model] == [True, False]
    assert ["forward" in module.__dict__ for module in model] == [False, False]


@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_convolutions_train_in_float32_under_autocast(stride: int) -> None:
    torch.manual_seed(0)
    compute = Compute.resolve("cpu", "bf16")
    model, x = nn.Conv2d(12, 12, 5, stride=stride, padding=2, groups=12), torch.randn(2, 12, 9, 11)
    exact = gradients(copy.deepcopy(model), x)
    placed = compute.place(model)
    with compute.training(placed), compute.autocast():
        found = gradients(placed, compute.images(x))
        assert placed(compute.images(x)).dtype == torch.float32
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(found, exact, strict=True))
    with compute.autocast():
        assert placed(compute.images(x)).dtype == torch.bfloat16


def test_a_subclass_that_convolves_otherwise_keeps_its_own_way() -> None:
    class Doubled(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    compute, x = Compute.resolve("cpu", "bf16"), torch.randn(1, 8, 6, 6)
    model = nn.Sequential(Doubled(8, 4, 1, stride=2), Doubled(4, 4, 3, groups=4))
    expected = model(x)
    with compute.training(model):
        assert torch.allclose(model(x), expected, atol=1e-5)


def test_auto_takes_what_the_machine_has() -> None:
    compute = Compute.resolve()
    assert compute.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert compute.precision in ("bf16", "fp32")
    assert Compute.resolve("cpu", "fp32").precision == "fp32"
    with Compute.resolve("cpu", "bf16").autocast():
        assert nn.Linear(2, 2)(torch.zeros(1, 2)).dtype == torch.bfloat16
