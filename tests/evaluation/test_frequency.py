import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import fft
from torch import nn

from gearnn.datasets import Camera, DistortedDataset, Sample
from gearnn.datasets.streets import Streets
from gearnn.errors import DataError, PlanError
from gearnn.evaluation.frequency import InverseDCT, closeness, dct_matrix, frequency_response, high_frequency_share
from gearnn.levels import DistortionLevel
from gearnn.machine.compute import Compute
from gearnn.problems.segmentation import SemanticSegmentation


def frames(size: tuple[int, int], number: int = 3) -> DistortedDataset:
    return DistortedDataset(Streets("test", number, 0, Camera(size=size)), DistortionLevel())


def test_the_transform_is_scipys_orthonormal_dct() -> None:
    block = np.random.default_rng(0).normal(size=(8, 12))
    rows, columns = dct_matrix(8, torch.float64).numpy(), dct_matrix(12, torch.float64).numpy()
    np.testing.assert_allclose(rows @ block @ columns.T, fft.dctn(block, norm="ortho"), atol=1e-12)


def test_colours_are_jpegs() -> None:
    """Pillow's YCbCr, which JPEG uses, up to its rounding to 8 bits."""
    image = Streets("photo", 1, 3, Camera(size=(48, 32))).frame(0)
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).double() / 255
    inverse = InverseDCT((32, 48), torch.float64)
    planes = fft.idctn(inverse.coefficients(pixels)[:, 0, 0].numpy(), axes=(1, 2), norm="ortho") * 255
    wanted = np.asarray(image.convert("YCbCr"), float).transpose(2, 0, 1) - np.array([0, 128, 128])[:, None, None]
    np.testing.assert_allclose(planes, wanted, atol=1.01)


@pytest.mark.parametrize("block", [(8, 8), (16, 24)])
def test_coefficients_and_pixels_are_each_others_inverse(block: tuple[int, int]) -> None:
    pixels = torch.rand(3, 16, 24, dtype=torch.float64)
    inverse = InverseDCT(block, torch.float64)
    torch.testing.assert_close(inverse(inverse.coefficients(pixels)), pixels)


@pytest.mark.parametrize("block", [8, None])
def test_the_response_agrees_with_finite_differences(
    tiny: nn.Module, problem: SemanticSegmentation, block: int | None
) -> None:
    """Every coefficient of one frame is moved a little, both ways, in double precision."""
    samples, model = frames((18, 12), 1), tiny.double()
    wide = Doubled(**{f: getattr(problem, f) for f in ("num_classes", "ignore_index", "mean", "std", "stride")})
    batch = problem.collate([samples[0]])
    (pixels,) = (p.double() for p in problem.pixels(batch))
    size = (8, 8) if block else (12, 18)
    height, width = (8, 16) if block else (12, 18)
    inverse = InverseDCT(size, torch.float64)
    coefficients = inverse.coefficients(pixels[:, :height, :width])

    def loss(moved: torch.Tensor) -> float:
        frame = pixels.clone()
        frame[:, :height, :width] = inverse(moved)
        with torch.no_grad():
            return float(wide.loss(model, wide.with_pixels(batch, [frame])))

    wanted = torch.zeros_like(coefficients)
    for place in np.ndindex(*coefficients.shape):
        step = torch.zeros_like(coefficients)
        step[place] = 1e-6
        wanted[place] = abs(loss(coefficients + step) - loss(coefficients - step)) / 2e-6
    found = frequency_response(model, samples, wide, block=block, compute=Compute.resolve("cpu", "fp32"))
    np.testing.assert_allclose(found, wanted.mean(dim=(1, 2)).numpy(), rtol=2e-5, atol=1e-8)


class Doubled(SemanticSegmentation):
    """Frames in double precision, for a network in double precision."""

    def pixels(self, batch):  # type: ignore[no-untyped-def]
        return [pixels.double() for pixels in super().pixels(batch)]

    def _cross_entropy(self, logits, targets):  # type: ignore[no-untyped-def]
        return nn.functional.cross_entropy(logits, targets)


def test_a_network_that_blurs_hears_no_high_frequencies(problem: SemanticSegmentation, fp32: Compute) -> None:
    torch.manual_seed(0)
    sharp = nn.Conv2d(3, 9, 1)
    blurred = nn.Sequential(nn.AvgPool2d(5, stride=1, padding=2, count_include_pad=False), sharp)
    plain, soft = (frequency_response(m, frames((48, 32)), problem, compute=fp32) for m in (sharp, blurred))
    assert plain.shape == (3, 8, 8)
    assert soft[0, 0, 0] > 0.8 * plain[0, 0, 0]
    assert soft[0, 5:, 5:].mean() < 0.1 * plain[0, 5:, 5:].mean()


def test_the_network_comes_back_as_it_was(tiny: nn.Module, problem: SemanticSegmentation, fp32: Compute) -> None:
    learnable = {name: p.requires_grad for name, p in tiny.named_parameters()}
    state = {name: value.clone() for name, value in tiny.state_dict().items()}
    frequency_response(tiny, frames((48, 32)), problem, num_frames=2, compute=fp32)
    assert {name: p.requires_grad for name, p in tiny.named_parameters()} == learnable
    assert not tiny.training
    assert not tiny.bn.training  # type: ignore[union-attr]
    assert all(torch.equal(value, state[name]) for name, value in tiny.state_dict().items())


def test_another_thread_may_train_the_network_meanwhile(
    tiny: nn.Module, problem: SemanticSegmentation, fp32: Compute
) -> None:
    learnable = {name: p.requires_grad for name, p in tiny.named_parameters()}
    modes = [module.training for module in tiny.modules()]
    seen = []

    def look(done: int, number: int) -> None:
        now = {name: p.requires_grad for name, p in tiny.named_parameters()}
        seen.append(now == learnable and [module.training for module in tiny.modules()] == modes)

    frequency_response(tiny, frames((48, 32), 2), problem, compute=fp32, on_frame=look)
    assert seen == [True, True]


def test_a_network_that_cannot_be_copied_is_asked_itself_and_keeps_its_flags(
    tiny: nn.Module, problem: SemanticSegmentation, fp32: Compute
) -> None:
    expected = frequency_response(tiny, frames((48, 32), 2), problem, compute=fp32)
    hooked = copy.deepcopy(tiny).train()
    feats: dict[str, Any] = {}
    hooked.feats = feats  # type: ignore[assignment]
    hooked.conv.register_forward_hook(lambda m, i, o: feats.__setitem__("x", o))  # type: ignore[union-attr]
    learnable = {name: p.requires_grad for name, p in hooked.named_parameters()}
    seen = []

    def look(done: int, number: int) -> None:
        seen.append({name: p.requires_grad for name, p in hooked.named_parameters()} == learnable)

    found = frequency_response(hooked, frames((48, 32), 2), problem, compute=fp32, on_frame=look)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
    assert seen == [True, True]
    assert all(module.training for module in hooked.modules())
    assert all(parameter.grad is None for parameter in hooked.parameters())


def test_frames_without_truth_are_left_out_of_the_mean(
    tiny: nn.Module, problem: SemanticSegmentation, fp32: Compute
) -> None:
    partly = replace(problem, ignore_index=255)
    sample = frames((24, 16), 1)[0]
    void = Sample(image=sample.image, target=np.full_like(sample.target, 255), name="void")
    alone = frequency_response(tiny, [sample], partly, compute=fp32)  # type: ignore[arg-type]
    np.testing.assert_array_equal(frequency_response(tiny, [void, sample], partly, compute=fp32), alone)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="expected truth in at least one of 1 frames, but got none"):
        frequency_response(tiny, [void], partly, compute=fp32)  # type: ignore[arg-type]


def test_dropout_does_not_shake_the_response(problem: SemanticSegmentation, fp32: Compute) -> None:
    model = nn.Sequential(nn.Conv2d(3, 9, 3, padding=1), nn.Dropout(0.5))
    first, second = (frequency_response(model, frames((24, 16)), problem, compute=fp32) for _ in range(2))
    silent = nn.Sequential(model[0], nn.Identity())
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, frequency_response(silent, frames((24, 16)), problem, compute=fp32))


def test_closeness_is_one_at_the_goal_and_nothing_at_the_start() -> None:
    base, full = np.zeros((1, 2, 2)), np.ones((1, 2, 2))
    assert closeness(base, full, full) == 1.0
    assert closeness(base, full, base) == 0.0
    assert closeness(base, full, 0.75 * full) == pytest.approx(0.75)
    assert np.isnan(closeness(base, base, full))


def test_the_share_of_high_frequencies_is_counted_behind_the_diagonal() -> None:
    flat = np.ones((3, 4, 4))
    assert high_frequency_share(flat) == pytest.approx(6 / 16)  # 1 + 2 + 3 of 16
    low = np.zeros((3, 4, 4))
    low[0, 0, 0] = 5.0
    assert high_frequency_share(low) == 0.0
    assert np.isnan(high_frequency_share(np.zeros((3, 4, 4))))


def test_what_cannot_be_asked_is_said_in_one_line(tiny: nn.Module, problem: SemanticSegmentation) -> None:
    with pytest.raises(DataError, match="expected frames of at least 8x8, but got 12x6"):
        frequency_response(tiny, frames((12, 6)), problem)
    with pytest.raises(DataError, match="at least one frame"):
        frequency_response(tiny, frames((12, 8), 0), problem)

    class Opaque:
        def describe(self) -> dict[str, str]:
            return {"name": "opaque"}

    with pytest.raises(PlanError, match=r"methods of gearnn.problems.problem.Differentiable, but got opaque"):
        frequency_response(tiny, frames((12, 8)), Opaque())  # type: ignore[arg-type]
