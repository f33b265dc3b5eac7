import numpy as np
import pytest
import torch

from gearnn.metrics import ClassificationScore


def test_accuracy_equals_a_count_by_hand() -> None:
    rng = np.random.default_rng(0)
    score, hits, top5 = ClassificationScore(8), 0, 0
    by_class: dict[int, list[bool]] = {}
    for _ in range(200):
        likelihoods, truth = rng.random(8), int(rng.integers(0, 7))
        score.update(torch.from_numpy(likelihoods), truth)
        ranking = sorted(range(8), key=lambda c: -likelihoods[c])
        hits += ranking[0] == truth
        top5 += truth in ranking[:5]
        by_class.setdefault(truth, []).append(ranking[0] == truth)
    assert score.primary == pytest.approx(hits / 2)
    assert score.figures == pytest.approx({"accuracy": hits / 2, "top5_accuracy": top5 / 2})
    expected = [100 * sum(by_class[c]) / len(by_class[c]) if c in by_class else None for c in range(8)]
    assert score.per_class == pytest.approx(expected)
    interval = score.interval()
    assert interval.low < score.primary < interval.high


def test_of_equally_likely_classes_the_first_is_the_prediction() -> None:
    score = ClassificationScore(3)
    score.update(torch.tensor([0.5, 0.5, 0.0]), 1)
    assert score.primary == 0
    score.update(torch.tensor([0.5, 0.5, 0.0]), 0)
    assert score.primary == 50


def test_predictions_that_do_not_fit_are_told() -> None:
    score = ClassificationScore(3)
    with pytest.raises(ValueError, match=r"expected a prediction of shape \[3\], but got \[4\]"):
        score.update(torch.zeros(4), 0)
    with pytest.raises(ValueError, match="expected a class from 0 to 2, but got 3"):
        score.update(torch.zeros(3), 3)
    assert np.isnan(score.primary)


def test_the_interval_is_that_of_frames_drawn_with_replacement() -> None:
    score, rng = ClassificationScore(num_classes=3), np.random.default_rng(0)
    for truth in rng.integers(0, 3, 20):
        score.update(torch.from_numpy(rng.random(3)), int(truth))
    hits = np.asarray(score._ranks) < 1
    picks = np.random.default_rng(5).integers(0, 20, size=(40, 20))
    expected = np.quantile(100 * hits[picks].mean(axis=1), [0.025, 0.975])
    found = score.interval(num_draws=40, seed=5)
    assert [found.low, found.high] == pytest.approx(expected.tolist())
    assert np.isnan(ClassificationScore(num_classes=3).interval(num_draws=4).high)
