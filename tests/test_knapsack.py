import itertools
import math

import numpy as np
import pytest

from gearnn import knapsack, knapsack_proof
from gearnn.errors import BoundError
from gearnn.knapsack import select_layers
from gearnn.layers import layers_of
from gearnn.models import load_model


def best_value(values: list[float], sizes: list[int], bound: int) -> float:
    """Exact dynamic programming over the bound."""
    best = np.zeros(bound + 1)
    for value, size in zip(values, sizes, strict=True):
        if size <= bound:
            best[size:] = np.maximum(best[size:], best[: bound + 1 - size] + value)
    return float(best[-1])


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-5, 1e-7])
@pytest.mark.parametrize("seed", range(6))
def test_the_selection_is_as_good_as_dynamic_programming(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    values = (scale * 10.0 ** rng.uniform(-3, 0, 30)).tolist()
    sizes = rng.integers(1, 400, 30).tolist()
    bound = int(rng.integers(300, 2500))
    chosen = select_layers(values, sizes, bound)
    assert sum(sizes[i] for i in chosen) <= bound
    assert math.fsum(values[i] for i in chosen) == pytest.approx(best_value(values, sizes, bound), rel=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_small_instances_agree_with_trying_everything(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    values, sizes, bound = rng.random(8).tolist(), rng.integers(1, 9, 8).tolist(), 15
    tried = (
        sum(values[i] for i in subset)
        for count in range(9)
        for subset in itertools.combinations(range(8), count)
        if sum(sizes[i] for i in subset) <= bound
    )
    assert sum(values[i] for i in select_layers(values, sizes, bound)) == pytest.approx(max(tried))


def test_layers_of_a_real_network_with_near_equal_values() -> None:
    sizes = [layer.num_values for layer in layers_of(load_model("drn_d_22", 19))]
    rng = np.random.default_rng(0)
    values = (1e-4 * (1 + 1e-4 * rng.random(len(sizes)))).tolist()
    chosen = select_layers(values, sizes, 31_814)
    assert sum(sizes[i] for i in chosen) <= 31_814
    assert math.fsum(values[i] for i in chosen) == pytest.approx(best_value(values, sizes, 31_814), rel=1e-9)


def instance(kind: str, number: int) -> tuple[list[float], list[int], int]:
    """Layers that are worth about what they weigh, on which branch and bound with tolerances does not end."""
    rng = np.random.default_rng(number)
    sizes = rng.integers(1000, 9999, number)
    if kind == "value = size, even, bound odd":
        sizes = 2 * sizes
        return (1e-7 * sizes).tolist(), sizes.tolist(), int(sizes.sum()) // 3 // 2 * 2 + 1
    worth = {
        "value = size": sizes,
        "value = size + constant": sizes + 1000,
        "value = size - constant": sizes - 900,
        "value about size": sizes + rng.integers(-500, 500, number),
        "one value": np.ones(number),
    }[kind]
    return (1e-7 * worth).tolist(), sizes.tolist(), int(sizes.sum()) // 3


@pytest.mark.parametrize("number", [12, 60, 150])
@pytest.mark.parametrize("kind", [
    "value = size", "value = size, even, bound odd", "value = size + constant", "value = size - constant",
    "value about size", "one value",
])  # fmt: skip
def test_layers_worth_what_they_weigh_are_chosen_exactly(
    kind: str, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    values, sizes, bound = instance(kind, number)
    chosen = select_layers(values, sizes, bound)
    assert sum(sizes[i] for i in chosen) <= bound
    assert math.fsum(values[i] for i in chosen) == pytest.approx(best_value(values, sizes, bound), rel=1e-12)
    assert caplog.text == ""
    assert select_layers(values, sizes, bound) == chosen


@pytest.mark.parametrize("largest", [10**6, 3 * 10**9, 10**12])
@pytest.mark.parametrize("seed", range(5))
def test_sizes_of_billions_are_weighed_exactly(largest: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(largest // 2, largest, 9).tolist()
    values = (10.0 ** rng.uniform(-7, -3, 9)).tolist()
    bound = sum(sizes[:4]) - seed % 2
    chosen = select_layers(values, sizes, bound)
    assert sum(sizes[i] for i in chosen) <= bound
    tried = [subset for count in range(10) for subset in itertools.combinations(range(9), count)]
    best = max(math.fsum(values[i] for i in s) for s in tried if sum(sizes[i] for i in s) <= bound)
    assert math.fsum(values[i] for i in chosen) == pytest.approx(best, rel=1e-12)


def test_a_wrong_or_missing_answer_of_the_solver_is_made_good(monkeypatch: pytest.MonkeyPatch) -> None:
    values, sizes, bound = instance("value about size", 60)
    expected = select_layers(values, sizes, bound)
    for answer in ([], [0, 1]):
        monkeypatch.setattr(knapsack, "_solve", lambda *_, answer=answer: answer)
        assert select_layers(values, sizes, bound) == expected


def test_a_proof_that_is_given_up_is_logged_with_what_it_may_cost(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(knapsack_proof, "_MOST_STATES", 50)
    monkeypatch.setattr(knapsack, "_solve", lambda *_: [])
    values, sizes, bound = instance("value about size", 60)
    chosen = select_layers(values, sizes, bound)
    (said,) = [record.args for record in caplog.records]
    assert isinstance(said, tuple)
    best, found = best_value(values, sizes, bound), math.fsum(values[i] for i in chosen)
    assert found <= best <= found * (1 + said[0] / 100)  # type: ignore[operator]
    assert "the layers were chosen without a proof that no others are better" in caplog.text


def test_of_equal_layers_the_first_are_chosen() -> None:
    assert select_layers([1.0, 2.0, 1.0, 2.0, 2.0, 1.0], [3, 5, 3, 5, 5, 3], 13) == [0, 1, 3]


def test_layers_of_no_values_are_never_chosen() -> None:
    assert select_layers([0.0, 1.0, 1.0], [0, 3, 3], 4) == [1]


def test_the_bound_may_be_met_exactly() -> None:
    assert select_layers([1.0, 1.0], [4, 6], 10) == [0, 1]


def test_layers_that_did_not_change_are_never_chosen() -> None:
    assert select_layers([0.0, 1.0], [1, 1], 10) == [1]


def test_a_bound_too_small_for_any_layer_is_named() -> None:
    with pytest.raises(
        BoundError, match="expected room for at least one layer, but got 3 values; the smallest layer needs 4"
    ):
        select_layers([1.0, 1.0], [4, 6], 3)
    with pytest.raises(BoundError, match="no layer changed at all"):
        select_layers([0.0], [4], 10)


@pytest.mark.parametrize(
    ("values", "sizes", "message"),
    [
        ([1.0], [1, 2], "expected one size per sensitivity, but got 2 for 1"),
        ([float("nan")], [1], "expected sensitivity 0 to be finite and not negative, but got nan"),
        ([-1.0], [1], "expected sensitivity 0 to be finite and not negative, but got -1.0"),
        ([1.0], [0], "expected size 0 to be at least 1 value, but got 0"),
    ],
)
def test_senseless_input_is_named(values: list[float], sizes: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select_layers(values, sizes, 10)
