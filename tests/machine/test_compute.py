import copy
from threading import Lock

import pytest
import torch
from torch import nn

from gearnn.errors import PlanError
from gearnn.machine.compute import Compute, own_copy


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


class Tied(nn.Module):
    """One weight under two names, a statistic, and a convolution in space and time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.again = nn.Conv2d(3, 4, 3)
        self.again.weight = self.conv.weight
        self.bn = nn.BatchNorm2d(4)
        self.cube = nn.Conv3d(4, 4, (1, 3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cube(self.bn(self.conv(x) + self.again(x))[:, :, None]).mean(dim=(2, 3, 4))


def test_weights_of_five_dimensions_keep_their_order() -> None:
    compute, model, x = Compute.resolve("cpu", "fp32"), Tied().eval(), torch.randn(2, 3, 8, 8)
    expected = copy.deepcopy(model)(x)
    placed = compute.place(model)
    assert placed.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert placed.cube.weight.is_contiguous()
    assert placed.again.weight is placed.conv.weight
    assert torch.allclose(placed(compute.images(x)), expected, atol=1e-4)


def test_what_is_lent_may_be_changed_without_its_owner_noticing() -> None:
    compute, model = Compute.resolve("cpu", "fp32"), Tied()
    before = {name: (id(t), t.data_ptr(), t.clone()) for name, t in model.state_dict(keep_vars=True).items()}
    lent = compute.lent(model)
    lent.train().requires_grad_(False)
    lent(torch.ones(2, 3, 8, 8))  # moves its own statistics
    model.eval()
    assert lent.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    for name, tensor in model.state_dict(keep_vars=True).items():
        assert (id(tensor), tensor.data_ptr()) == before[name][:2], name
        assert torch.equal(tensor, before[name][2]), name


def test_what_is_lent_shares_memory_where_it_fits_and_stays_tied() -> None:
    compute = Compute.resolve("cpu", "fp32")
    plain, placed = Tied(), compute.place(Tied())
    assert compute.lent(placed).conv.weight.data_ptr() == placed.conv.weight.data_ptr()
    assert compute.lent(placed).cube.weight.data_ptr() == placed.cube.weight.data_ptr()
    lent = compute.lent(plain)
    assert lent.conv.weight.data_ptr() != plain.conv.weight.data_ptr()  # another memory order
    assert lent.again.weight is lent.conv.weight
    assert lent.bn.running_mean.data_ptr() != plain.bn.running_mean.data_ptr()


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_a_network_with_derived_weights_is_copied() -> None:
    model = nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 4, 3)))
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(model)
    x = torch.ones(1, 3, 8, 8)
    assert torch.equal(own_copy(model)(x), model(x))
    assert torch.allclose(Compute.resolve("cpu", "fp32").lent(model)(x), model(x), atol=1e-6)


def test_slices_of_one_memory_stay_so() -> None:
    model, memory = nn.Module(), torch.arange(2.0 * 3 * 4 * 5 * 5).view(2, 3, 4, 5, 5)
    model.whole, model.part = nn.Parameter(memory[0]), nn.Parameter(memory[0, 1:])
    Compute.resolve("cpu", "fp32").place(model)
    with torch.no_grad():
        model.whole.zero_()
    assert not model.part.any()


def test_a_network_that_cannot_be_copied_is_named_in_one_line() -> None:
    model = nn.Linear(2, 2)
    model.lock = Lock()
    with pytest.raises(PlanError, match=r"expected one that copy.deepcopy can copy, but it raised TypeError"):
        own_copy(model)
