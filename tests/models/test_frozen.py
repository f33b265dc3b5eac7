import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from gearnn.models.frozen import freeze_batchnorms, thaw_batchnorms


def described(module: nn.Module) -> tuple[object, ...]:
    """All that a BatchNorm has."""
    tensors = {name: tensor.tolist() for name, tensor in module.state_dict().items()}
    learnable = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    kept = module.eps, module.momentum, module.affine, module.track_running_stats, module.training
    return type(module), tensors, learnable, kept, module.running_mean.dtype  # type: ignore[union-attr]


def moved(kind: type[nn.Module], **options: object) -> nn.Module:
    module = kind(4, **options)
    with torch.no_grad():
        module.running_mean.add_(2.0)  # type: ignore[union-attr, operator]
        module.num_batches_tracked.fill_(7)  # type: ignore[union-attr, operator]
    return module


@pytest.mark.parametrize(
    "module",
    [
        moved(nn.BatchNorm2d, eps=1e-3, momentum=0.01),
        moved(nn.BatchNorm2d, momentum=None),
        moved(nn.BatchNorm2d, dtype=torch.float64),
        moved(nn.BatchNorm2d).eval(),
        moved(nn.SyncBatchNorm, momentum=0.02),
        moved(nn.BatchNorm1d, momentum=0.03),
    ],
)
def test_what_a_batchnorm_had_comes_back_when_it_thaws(module: nn.Module) -> None:
    module.bias.requires_grad_(False)  # type: ignore[union-attr, operator]
    model = nn.Sequential(nn.Conv2d(3, 4, 1), module)
    before = described(module)
    freeze_batchnorms(model)
    freeze_batchnorms(model)  # what is fixed already forgets nothing
    assert not any(parameter.requires_grad for parameter in model[1].parameters())
    thaw_batchnorms(model)
    assert described(model[1]) == before


def test_a_network_put_into_evaluation_mode_meanwhile_stays_there() -> None:
    model = nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm1d(4))
    freeze_batchnorms(model)
    model.eval()
    thaw_batchnorms(model)
    assert not any(module.training for module in model.modules())


def test_one_that_was_built_frozen_thaws_in_its_own_precision() -> None:
    model = nn.Sequential(FrozenBatchNorm2d(4).double())
    thaw_batchnorms(model)
    assert type(model[0]) is nn.BatchNorm2d
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    assert all(parameter.requires_grad for parameter in model.parameters())
