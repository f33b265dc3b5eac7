import pytest
import torch
from torch import nn

from gearnn.recipe import Recipe, clip_gradients, make_optimizer, set_rate


def parameters() -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(4, 3) * scale) for scale in (0.05, 1.0, 0.0)]


def test_a_relative_rate_follows_the_size_of_each_tensor() -> None:
    """Adam's first step is the rate itself, whatever the gradient."""
    moved = parameters()
    before = [p.detach().clone() for p in moved]
    optimizer = make_optimizer(moved, Recipe(optimizer="adam", lr=0.1, relative=True))
    set_rate(optimizer, 0.1)
    for p in moved:
        p.grad = torch.ones_like(p) * 7.0
    optimizer.step()
    for p, old in zip(moved, before, strict=True):
        scale = max(float(old.square().mean().sqrt()), 1e-3)
        torch.testing.assert_close(old - p.detach(), torch.full_like(old, 0.1 * scale), rtol=1e-3, atol=1e-7)


def test_a_plain_rate_is_the_same_for_all_in_one_group() -> None:
    optimizer = make_optimizer(parameters(), Recipe())
    set_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25]


@pytest.mark.parametrize(("clip", "norm"), [(1.0, 1.0), (100.0, 5.0), (None, 5.0)])
def test_gradients_are_clipped_by_their_norm_over_all_tensors(clip: float | None, norm: float) -> None:
    moved = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    recipe = Recipe(clip=clip)
    optimizer = make_optimizer(moved, recipe)
    moved[0].grad, moved[1].grad = torch.tensor([3.0]), torch.tensor([4.0])
    clip_gradients(optimizer, recipe)
    found = torch.stack([p.grad for p in moved if p.grad is not None])
    assert float(found.norm()) == pytest.approx(norm, rel=1e-4)
    assert float(found[0] / found[1]) == pytest.approx(0.75)
