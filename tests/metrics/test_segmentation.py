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


def drawn_by_matrices(score: SegmentationScore, num_draws: int, seed: int) -> list[float]:
    """mIoU of frames drawn with replacement, from the sum of their confusion matrices."""
    rng, values = np.random.default_rng(seed), []
    for picks in rng.integers(0, len(score.frames), size=(num_draws, len(score.frames))):
        total = score.frames[picks].sum(axis=0)
        hits = np.diagonal(total)
        union = total.sum(0) + total.sum(1) - hits
        values.append(100 * np.mean(hits[union > 0] / union[union > 0]))
    return values


def test_the_interval_is_that_of_summed_confusion_matrices() -> None:
    score = SegmentationScore(num_classes=7, ignore_index=11)
    rng = np.random.default_rng(0)
    for _ in range(12):
        truth = rng.choice([0, 1, 2, 5, 11], (6, 8))
        score.update(torch.from_numpy(rng.choice([0, 1, 5, 6], (6, 8))), torch.from_numpy(truth))
    found = score.interval(num_draws=50, seed=4)
    expected = np.quantile(drawn_by_matrices(score, 50, 4), [0.025, 0.975])
    assert [found.low, found.high] == pytest.approx(expected.tolist(), abs=1e-10)
    assert np.array_equal(score.confusion, score.frames.sum(axis=0))


def test_a_split_without_truth_has_an_interval_of_no_numbers() -> None:
    score = SegmentationScore(num_classes=2, ignore_index=255)
    assert np.isnan(score.interval(num_draws=5).low)
    score.update(torch.zeros(2, 2), torch.full((2, 2), 255))
    assert np.isnan([score.miou, score.interval(num_draws=5).low, score.interval(num_draws=5).high]).all()


@pytest.mark.parametrize(("prediction", "truth", "message"), [
    (2, 0, "expected a prediction of classes 0 to 1, but got 0 to 2"),
    (0, 2, "expected a truth of classes 0 to 1, but got 0 to 2"),
    (0, -1, "expected a truth of classes 0 to 1, but got -1 to 0"),
])  # fmt: skip
def test_classes_out_of_range_are_refused(prediction: int, truth: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SegmentationScore(num_classes=2).update(torch.tensor([[0, prediction]]), torch.tensor([[0, truth]]))


def test_what_one_network_has_more_than_another_is_paired_over_frames() -> None:
    from gearnn.metrics.interval import gained

    generator = np.random.default_rng(0)
    one, other = SegmentationScore(2), SegmentationScore(2)
    for index in range(60):  # frames differ much in how hard they are, the two networks little
        truth = torch.from_numpy(generator.integers(0, 2, (20, 20)))
        wrong = torch.from_numpy(generator.random((20, 20)) < (index % 10) / 20)
        better = wrong & torch.from_numpy(generator.random((20, 20)) < 0.95)
        other.update(torch.where(wrong, 1 - truth, truth), truth)
        one.update(torch.where(better, 1 - truth, truth), truth)
    paired, alone = gained(one.draws(), other.draws()), one.interval()
    assert 0 < paired.low < one.primary - other.primary < paired.high
    assert paired.high - paired.low < 0.3 * (alone.high - alone.low)
    assert np.array_equal(one.draws(num_draws=5), one.draws()[:5])
