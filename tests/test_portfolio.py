"""Selections of layers beside Eq. 2's."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from torch import nn

from gearnn.algorithm1 import Method, adapt_level
from gearnn.datasets import DistortedDataset
from gearnn.errors import BoundError
from gearnn.layers import Layer, layers_of, model_size, named
from gearnn.machine.compute import Compute
from gearnn.metrics import ClassificationScore
from gearnn.models import build_model
from gearnn.portfolio import (
    BATCHNORM,
    EQ2,
    GENTLE,
    LAST,
    EveryOther,
    Trial,
    Tried,
    at_rate,
    batchnorm_first,
    batchnorm_layers,
    candidates,
    last_layers,
    most_sensitive,
    trial_of,
    tried_out,
)
from gearnn.problems.segmentation import SemanticSegmentation
from gearnn.recipe import Recipe


def names(layers: Sequence[Layer]) -> list[str]:
    return [layer.name for layer in layers]


def table_of(layers: Sequence[Layer], seed: int = 0) -> pd.DataFrame:
    values = np.random.default_rng(seed).random(len(layers))
    return pd.DataFrame({"layer": names(layers), "sensitivity": values})


def test_every_batchnorm_of_drn_d_22_is_found_with_its_known_size() -> None:
    layers = layers_of(build_model("drn_d_22", 19))
    chosen = batchnorm_layers(layers)
    assert sum(layer.num_values for layer in chosen) == 11_776
    assert {layer.kind for layer in chosen} == {"BatchNorm2d"}
    with pytest.raises(BoundError, match="BatchNorm layers: expected at least one"):
        batchnorm_layers([layer for layer in layers if not layer.statistics])


def test_the_last_layers_are_taken_from_the_output_backwards_as_far_as_they_fit(tiny: nn.Module) -> None:
    layers = layers_of(tiny)  # conv 112, bn 8, head 45
    assert names(last_layers(layers, 1000)) == ["conv", "bn", "head"]
    assert names(last_layers(layers, 60)) == ["bn", "head"]
    assert names(last_layers(layers, 45)) == ["head"]
    assert names(last_layers(layers, 44)) == ["bn"]  # the head is passed over
    with pytest.raises(BoundError, match="got 7 values; one needs 8"):
        last_layers(layers, 7)


def best_by_trying_all(layers: Sequence[Layer], table: pd.DataFrame, bound: int) -> float:
    value = dict(zip(table["layer"], table["sensitivity"], strict=True))
    sets = itertools.chain.from_iterable(itertools.combinations(layers, n) for n in range(len(layers) + 1))
    return max(sum(value[layer.name] for layer in s) for s in sets if sum(layer.num_values for layer in s) <= bound)


@pytest.mark.parametrize("bound", [8, 60, 120, 165])
def test_eq_2_is_the_best_of_all_subsets(tiny: nn.Module, bound: int) -> None:
    layers = layers_of(tiny)
    table = table_of(layers)
    value = dict(zip(table["layer"], table["sensitivity"], strict=True))
    chosen = most_sensitive(layers, table, bound)
    assert sum(value[layer.name] for layer in chosen) == pytest.approx(best_by_trying_all(layers, table, bound))


def test_batchnorm_comes_first_and_eq_2_fills_what_is_left() -> None:
    layers = layers_of(build_model("drn_d_22_quarter", 9))
    table, norms = table_of(layers), batchnorm_layers(layers)
    size = sum(layer.num_values for layer in norms)
    for bound in (size, size + 400, 3 * size):
        chosen = batchnorm_first(layers, table, bound)
        assert sum(layer.num_values for layer in chosen) <= bound
        assert set(norms) <= set(chosen)
        others = [layer for layer in layers if not layer.statistics]
        left = bound - size
        wanted = names(most_sensitive(others, table, left)) if left else []
        assert [name for name in names(chosen) if name not in names(norms)] == wanted
        assert names(chosen) == names(named(layers, names(chosen)))  # in the base's order
    few = batchnorm_first(layers, table, size // 2)
    assert few == most_sensitive(norms, table, size // 2)


def test_selections_that_are_the_same_are_tried_once(tiny: nn.Module) -> None:
    layers = layers_of(tiny)
    assert list(candidates(layers, table_of(layers), 1000)) == [EQ2]
    found = candidates(layers, pd.DataFrame({"layer": names(layers), "sensitivity": [9.0, 1.0, 2.0]}), 112)
    assert {name: names(chosen) for name, chosen in found.items()} == {
        EQ2: ["conv"],
        BATCHNORM: ["bn", "head"],
    }
    with pytest.raises(BoundError):
        candidates(layers, table_of(layers), 7)


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 5, 8, 16])
def test_a_trial_has_a_quarter_of_the_steps_at_most(epochs: int) -> None:
    recipe, of = trial_of(Recipe(epochs=epochs))
    samples = EveryOther(range(100), of, 8)  # type: ignore[arg-type]
    number = len(range(0, 100, of))
    assert len([samples[i] for i in range(len(samples))]) == number - (number % 8 == 1)
    assert 100 * epochs / 8 < recipe.epochs * len(samples) <= 100 * epochs / 4


def accuracy(hits: Sequence[int], of: int = 200) -> ClassificationScore:
    import torch

    score = ClassificationScore(num_classes=2)
    for i in range(of):
        score.update(torch.tensor([0.0, 1.0]) if i in hits else torch.tensor([1.0, 0.0]), 1)
    return score


def chosen_of(tiny: nn.Module, known: dict[str, Sequence[int]], gentle: Sequence[int] = ()) -> list[Tried]:
    """What is tried where every way selects one layer, and trials hit these frames; the last of a gentler rate."""
    layers = dict(zip(known, ([layer] for layer in layers_of(tiny)), strict=False))

    def trial(name: str, chosen: Sequence[Layer], rate: float) -> ClassificationScore:
        assert chosen == layers[name]
        return accuracy(known[name] if rate == 1.0 else gentle)

    rows = tried_out(layers, trial)
    assert [row.is_chosen for row in rows].count(True) == 1
    assert [(row.name, row.rate) for row in rows[:-1]] == [(name, 1.0) for name in known]
    assert rows[-1].rate == GENTLE
    return rows


def test_eq_2_is_kept_unless_another_selection_is_better_beyond_chance(tiny: nn.Module) -> None:
    rows = chosen_of(tiny, {EQ2: range(100), BATCHNORM: range(1, 102), LAST: range(95)})
    assert rows[0].is_chosen  # one frame more is chance
    assert rows[1].score > rows[0].score
    assert rows[1].gain[0] < 0 < rows[1].gain[1]
    rows = chosen_of(tiny, {EQ2: range(100), BATCHNORM: range(120), LAST: range(130)})
    assert rows[2].is_chosen
    assert rows[2].gain == pytest.approx((10.0, 20.0), abs=1.5)  # 15 points, by the binomial's spread
    assert (rows[3].name, rows[3].layers) == (LAST, rows[2].layers)


def test_a_gentler_rate_is_taken_where_it_is_better_beyond_chance(tiny: nn.Module) -> None:
    rows = chosen_of(tiny, {EQ2: range(100)}, gentle=range(101))
    assert rows[0].is_chosen
    rows = chosen_of(tiny, {EQ2: range(100)}, gentle=range(130))
    assert rows[1].is_chosen
    assert at_rate(Recipe(lr=0.02), rows[1].rate).lr == pytest.approx(0.005)


def test_algorithm_1_takes_what_its_trials_choose(
    samples: DistortedDataset, problem: SemanticSegmentation, fp32: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = build_model("drn_d_22_quarter", 9)
    method = Method(recipe=Recipe(epochs=1, batch_size=5, lr=0.01, clip=1.0))
    bound = model_size(base) // 100
    by_eq2 = adapt_level(base, samples, problem, "jpeg:quality=10", bound, method, compute=fp32)

    def last(found: dict[str, list[Layer]], trial: Trial) -> list[Tried]:
        rows = tried_out(found, trial)
        return [replace(row, is_chosen=row.name == LAST) for row in rows]

    monkeypatch.setattr("gearnn.algorithm1.tried_out", last)
    chosen = adapt_level(base, samples, problem, "jpeg:quality=10", bound, method, promote=samples, compute=fp32)
    assert chosen.layers == tuple(names(last_layers(layers_of(base), bound)))
    assert chosen.layers != by_eq2.layers


def test_statistics_alone_are_never_selected(tiny: nn.Module) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 9, 1)).eval()
    layers = layers_of(network)
    assert [layer.num_weights for layer in layers] == [16, 0, 45]
    table = pd.DataFrame({"layer": names(layers), "sensitivity": [0.1, 9.0, 0.2]})
    assert names(most_sensitive(layers, table, 61)) == ["1", "2"]
    assert names(most_sensitive(layers, table, 20)) == ["0"]  # statistics would be worth more, and teach nothing
    with pytest.raises(BoundError):
        most_sensitive(layers, table, 10)
    with pytest.raises(BoundError, match="expected at least one that can learn"):
        batchnorm_layers(layers)


def test_a_batchnorm_is_taken_whole_where_its_tensors_are_items() -> None:
    layers = layers_of(build_model("drn_d_22_quarter", 9), "tensor", "frozen")
    chosen = names(batchnorm_layers(layers))
    assert "base.0.1.weight" in chosen
    assert "base.0.1.bias" in chosen


def test_a_single_frame_proves_nothing(tiny: nn.Module) -> None:
    layers = {EQ2: layers_of(tiny)[:1], LAST: layers_of(tiny)[2:]}
    rows = tried_out(layers, lambda name, chosen, rate: accuracy([0] if name == LAST else [], of=1))
    assert rows[1].score > rows[0].score
    assert rows[0].is_chosen
