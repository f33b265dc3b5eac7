import numpy as np
import pytest
import torch

from gearnn.metrics import SegmentationScore


def naive_miou(pairs: list[tuple[np.ndarray, np.ndarray]], num_classes: int, ignore: int) -> float:
    """Dataset-level mIoU, counted pixel by pixel."""
    hits, union = [0] * num_classes, [0] * num_classes
    for prediction, truth in pairs:
        for p, t in zip(prediction.flat, truth.flat, strict=True):
            if t == ignore:
                continue
            if p == t:
                hits[p] += 1
                union[p] += 1
            else:
                union[p] += 1
                union[t] += 1
    return 100 * float(np.mean([h / u for h, u in zip(hits, union, strict=True) if u]))


def random_pairs(seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(4):
        truth = rng.integers(0, 4, (6, 7))
        truth[rng.random(truth.shape) < 0.2] = 11
        pairs.append((rng.integers(0, 4, truth.shape), truth))
    return pairs


@pytest.mark.parametrize("seed", range(5))
def test_miou_is_what_counting_pixel_by_pixel_gives(seed: int) -> None:
    pairs = random_pairs(seed)
    score = SegmentationScore(num_classes=6, ignore_index=11)  # classes 4 and 5 never occur
    for prediction, truth in pairs:
        score.update(torch.from_numpy(prediction), torch.from_numpy(truth))
    assert score.miou == pytest.approx(naive_miou(pairs, 6, 11), abs=1e-9)
    assert score.per_class[4:] == [None, None]


def test_miou_is_of_the_split_not_a_mean_over_frames() -> None:
    score = SegmentationScore(num_classes=2)
    score.update(torch.tensor([[0, 0, 0, 0]]), torch.tensor([[0, 0, 0, 0]]))
    score.update(torch.tensor([[0, 1]]), torch.tensor([[1, 1]]))
    assert score.miou == pytest.approx(100 * (4 / 5 + 1 / 2) / 2)


def test_void_pixels_take_no_part() -> None:
    score = SegmentationScore(num_classes=2, ignore_index=255)
    score.update(torch.tensor([[0, 1, 1]]), torch.tensor([[0, 1, 255]]))
    assert score.miou == 100.0
    assert score.confusion.sum() == 2


def test_an_empty_score_is_not_a_number() -> None:
    assert np.isnan(SegmentationScore(num_classes=2).miou)


def test_the_interval_holds_the_score_and_is_reproducible() -> None:
    score = SegmentationScore(num_classes=4, ignore_index=11)
    rng = np.random.default_rng(0)
    for _ in range(30):
        truth = rng.integers(0, 4, (8, 8))
        wrong = rng.random(truth.shape) < rng.uniform(0, 0.6)
        score.update(torch.from_numpy(np.where(wrong, (truth + 1) % 4, truth)), torch.from_numpy(truth))
    interval = score.interval(seed=3)
    assert interval.low < score.miou < interval.high
    assert interval == score.interval(seed=3)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"expected a prediction of shape \[1, 3\], but got \[1, 2\]"):
        SegmentationScore(num_classes=2).update(torch.zeros(1, 2), torch.zeros(1, 3))
