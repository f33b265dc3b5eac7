import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from gearnn.datasets import Sample
from gearnn.errors import DataError, PlanError
from gearnn.problems.segmentation import SemanticSegmentation


def sample(width: int, height: int, seed: int = 0) -> Sample:
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    return Sample(image=image, target=rng.integers(0, 9, (height, width)).astype(np.uint8), name=str(seed))


def test_frames_are_padded_after_normalisation_to_the_stride(problem: SemanticSegmentation) -> None:
    batch = problem.collate([sample(20, 13)])
    assert batch.images.shape == (1, 3, 16, 24)
    assert batch.size == (13, 20)
    pixels = np.asarray(sample(20, 13).image, np.float32) / 255
    assert torch.allclose(
        batch.images[0, :, :13, :20], torch.from_numpy((pixels - 0.5) / 0.25).permute(2, 0, 1), atol=1e-6
    )
    assert batch.images[:, :, 13:].abs().sum() + batch.images[:, :, :, 20:].abs().sum() == 0


def test_padding_does_not_reach_the_loss(problem: SemanticSegmentation, tiny: nn.Module) -> None:
    one = sample(20, 13)
    batch = problem.collate([one])
    logits = tiny(batch.images)[:, :, :13, :20]
    assert torch.allclose(problem.loss(tiny, batch), F.cross_entropy(logits, batch.targets))
    assert problem.predict(tiny, batch)[0].shape == (13, 20)


def test_void_pixels_do_not_count(tiny: nn.Module) -> None:
    problem = SemanticSegmentation(num_classes=9, ignore_index=11, mean=(0.5,) * 3, std=(0.25,) * 3)
    one = sample(16, 16)
    one.target[:, 8:] = 11
    logits = tiny(problem.collate([one]).images)[:, :, :, :8]
    expected = F.cross_entropy(logits, torch.from_numpy(one.target[None, :, :8].astype(np.int64)))
    assert torch.allclose(problem.loss(tiny, problem.collate([one])), expected)


def test_predictions_of_smaller_frames_are_scaled_to_the_label(problem: SemanticSegmentation, tiny: nn.Module) -> None:
    small = Sample(image=sample(16, 8).image, target=sample(32, 16).target, name="half")
    assert problem.predict(tiny, problem.collate([small]))[0].shape == (16, 32)


def test_frames_of_different_sizes_are_never_stacked(problem: SemanticSegmentation) -> None:
    with pytest.raises(DataError, match=r"expected frames of one size in a batch, but got \[\(16, 16\), \(20, 13\)\]"):
        problem.collate([sample(20, 13), sample(16, 16)])


def test_a_flip_mirrors_frame_and_truth(problem: SemanticSegmentation) -> None:
    one = sample(20, 13)
    flipped = problem.flip(one)
    assert np.array_equal(np.asarray(flipped.image), np.asarray(one.image)[:, ::-1])
    assert np.array_equal(flipped.target, one.target[:, ::-1])


class TwoHeads(nn.Module):
    """Gives what torchvision's segmentation networks give."""

    def __init__(self, main: nn.Module, auxiliary: nn.Module) -> None:
        super().__init__()
        self.main, self.auxiliary = main, auxiliary

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": self.main(x), "aux": self.auxiliary(x)}


def test_an_auxiliary_head_counts_half_into_the_loss(problem: SemanticSegmentation, tiny: nn.Module) -> None:
    torch.manual_seed(1)
    other = type(tiny)().eval()
    batch = problem.collate([sample(20, 13)])
    loss = problem.loss(TwoHeads(tiny, other), batch)
    assert torch.allclose(loss, problem.loss(tiny, batch) + 0.5 * problem.loss(other, batch))
    assert torch.equal(problem.predict(TwoHeads(tiny, other), batch)[0], problem.predict(tiny, batch)[0])


@pytest.mark.parametrize(
    ("network", "came"),
    [
        (nn.Conv2d(3, 4, 1), r"but got \[1, 4, 16, 24\]"),
        (nn.Conv2d(3, 9, 1, stride=2), r"but got \[1, 9, 8, 12\]"),
        (TwoHeads(nn.Conv2d(3, 4, 1), nn.Conv2d(3, 9, 1)), r"a dictionary of out \[1, 4, 16, 24\], aux"),
    ],
)
def test_a_network_with_other_outputs_is_told_what_was_expected(
    problem: SemanticSegmentation, network: nn.Module, came: str
) -> None:
    with pytest.raises(PlanError, match=rf"expected the network to give logits \[1, 9, 16, 24\] .*{came}"):
        problem.predict(network, problem.collate([sample(20, 13)]))


def test_an_answer_tells_the_largest_classes_and_holds_the_mask(problem: SemanticSegmentation) -> None:
    answer = problem.answer(torch.tensor([[3, 3, 3], [3, 0, 5]]))
    assert answer.text == "class 3 67 %, class 5 17 %, class 0 17 %"
    assert answer.mask is not None
    assert answer.mask.dtype == np.uint8
    assert answer.facts == {}
