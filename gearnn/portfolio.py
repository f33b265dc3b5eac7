"""Which layers to adapt, by evidence: several selections under one bound, each tried by a short fine-tune.

Eq. 2 takes the layers that a full fine-tune changed most. On held-out frames other selections of the same bytes are
sometimes better, and which ones differs from level to level. So each is fine-tuned for a quarter of the steps and
scored on frames on which nothing is reported; Eq. 2's is kept unless another one beats it beyond chance. A last trial
is of the learning rate: networks differ in how large a one their adaptors bear.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import pandas as pd

from gearnn.errors import BoundError
from gearnn.finetune_batches import Samples
from gearnn.knapsack import select_layers
from gearnn.layers import Layer
from gearnn.metrics.interval import gained
from gearnn.problems.problem import Comparable, Score
from gearnn.recipe import Recipe

EQ2: Final = "Eq. 2"
BATCHNORM: Final = "BatchNorm first"
LAST: Final = "last layers"

GENTLE: Final = 0.25
"""By what the rate is multiplied in the last trial."""

_SHARE = 4
"""A trial has one step in four of the fine-tune."""

_LOGGER = logging.getLogger("gearnn")


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A selection that was tried.

    Attributes:
        name: how it selects.
        layers: what it selects, in the base's order.
        score: of its trial on frames on which nothing is reported, in percent; NaN where it was not tried.
        gain: how much better than Eq. 2's that is, in points; the ends of the paired 95 % interval over frames. Of a
            rate: than the same layers with the recipe's own.
        rate: by what the recipe's learning rate was multiplied.
        is_chosen: whether it is the one.
    """

    name: str
    layers: tuple[str, ...]
    score: float = float("nan")
    gain: tuple[float, float] = (0.0, 0.0)
    rate: float = 1.0
    is_chosen: bool = False


def batchnorm_layers(layers: Sequence[Layer]) -> list[Layer]:
    """Every BatchNorm layer that can learn: "switch every BatchNorm".

    Raises:
        BoundError: the network has none.
    """
    paths = {layer.statistics[0].rpartition(".")[0] for layer in layers if layer.statistics}
    found = [layer for layer in layers if layer.statistics or {w.rpartition(".")[0] for w in layer.weights} & paths]
    if not any(layer.num_weights for layer in found):
        raise BoundError("BatchNorm layers: expected at least one that can learn, but the network has none")
    return found


def last_layers(layers: Sequence[Layer], bound: int) -> list[Layer]:
    """The layers nearest to the output that fit the bound, as transfer learning would choose them.

    From the last layer backwards every layer is taken that still fits, larger ones are passed over.

    Args:
        layers: of the base, in its order.
        bound: M, in values.

    Raises:
        BoundError: none fits.
    """
    chosen: set[str] = set()
    left = bound
    holding = [layer for layer in layers if layer.num_values and (layer.num_weights or layer.statistics)]
    for layer in reversed(holding):
        if layer.num_values <= left:
            chosen.add(layer.name)
            left -= layer.num_values
    if not any(layer.num_weights for layer in layers if layer.name in chosen):
        smallest = min((layer.num_values for layer in holding), default=0)
        raise BoundError(f"last layers: expected room for one at least, but got {bound} values; one needs {smallest}")
    return [layer for layer in layers if layer.name in chosen]


def most_sensitive(layers: Sequence[Layer], table: pd.DataFrame, bound: int) -> list[Layer]:
    """Eq. 2: the layers of the largest sum of sensitivities that fit the bound.

    Args:
        layers: candidates, in the base's order.
        table: sensitivities, as :func:`gearnn.sensitivity.weight_change` gives them.
        bound: M, in values.

    Raises:
        BoundError: none fits.
    """
    value = dict(zip(table["layer"], table["sensitivity"], strict=True))
    chosen = select_layers([value[layer.name] for layer in layers], [layer.num_values for layer in layers], bound)
    if not any(layers[i].num_weights for i in chosen):  # statistics alone leave a fine-tune nothing to learn
        return most_sensitive([layer for layer in layers if layer.num_weights], table, bound)
    return [layers[i] for i in chosen]


def batchnorm_first(layers: Sequence[Layer], table: pd.DataFrame, bound: int) -> list[Layer]:
    """Every BatchNorm layer, and by Eq. 2 what fits beside them; by Eq. 2 some of them where not all fit.

    Raises:
        BoundError: the network has none, or none fits.
    """
    norms = batchnorm_layers(layers)
    left = bound - sum(layer.num_values for layer in norms)
    if left < 0:
        return most_sensitive(norms, table, bound)
    chosen = {layer.name for layer in norms}
    try:
        others = most_sensitive([layer for layer in layers if layer.name not in chosen], table, left)
    except BoundError:  # nothing fits beside them
        others = []
    chosen |= {layer.name for layer in others}
    return [layer for layer in layers if layer.name in chosen]


def candidates(layers: Sequence[Layer], table: pd.DataFrame, bound: int) -> dict[str, list[Layer]]:
    """Selections by name that differ from each other, Eq. 2's first; arguments as for :func:`most_sensitive`.

    Raises:
        BoundError: Eq. 2 has none.
    """
    ways: dict[str, Callable[[], list[Layer]]] = {
        EQ2: lambda: most_sensitive(layers, table, bound),
        BATCHNORM: lambda: batchnorm_first(layers, table, bound),
        LAST: lambda: last_layers(layers, bound),
    }
    found: dict[str, list[Layer]] = {}
    for name, select in ways.items():
        try:
            selected = select()
        except BoundError:
            if name == EQ2:
                raise
            continue
        if selected not in found.values():
            found[name] = selected
    return found


def at_rate(recipe: Recipe, rate: float) -> Recipe:
    """The recipe with its learning rate multiplied."""
    return replace(recipe, lr=recipe.lr * rate)


def trial_of(recipe: Recipe) -> tuple[Recipe, int]:
    """A recipe of a quarter of the epochs; and of how many frames one is taken, where they are too few to quarter."""
    epochs = max(1, recipe.epochs // _SHARE)
    return replace(recipe, epochs=epochs), max(1, math.ceil(_SHARE * epochs / recipe.epochs))


class EveryOther(Samples):
    """One frame in several, evenly spread.

    Args:
        samples: all of them.
        step: of how many one is taken.
        batch_size: of the fine-tune; a frame that would stand alone in the last batch is left out, because
            BatchNorm may not be able to learn from it.
    """

    def __init__(self, samples: Samples, step: int, batch_size: int) -> None:
        self.samples, self.step = samples, step
        number = -(-len(samples) // step)
        self._number = number - (number % batch_size == 1 and number > 1)

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, index: int) -> Any:
        """A sample, as the others give it."""
        return self.samples[index * self.step]


Trial = Callable[[str, Sequence[Layer], float], Score]
"""Given a name, layers and what to multiply the rate by, fine-tunes the layers by :func:`trial_of` and scores them."""


def tried_out(found: Mapping[str, Sequence[Layer]], trial: Trial) -> list[Tried]:
    """Try selections, then a gentler rate for the best one.

    Args:
        found: what :func:`candidates` gave.
        trial: called once for each, and once more.

    Returns:
        What was tried. Chosen is the best of those that beat Eq. 2 beyond chance, else Eq. 2's; at the recipe's rate,
        unless the gentler one is better beyond chance.
    """
    scores = {name: trial(name, layers, 1.0) for name, layers in found.items()}
    rows = []
    for name, layers in found.items():
        gain = (0.0, 0.0) if name == EQ2 else _gain(scores[name], scores[EQ2])
        names = tuple(layer.name for layer in layers)
        rows.append(Tried(name=name, layers=names, score=scores[name].primary, gain=gain))
    best = max((row for row in rows if _is_sure(row)), key=lambda row: row.score, default=rows[0])
    score = trial(best.name, found[best.name], GENTLE)
    gentle = replace(best, score=score.primary, gain=_gain(score, scores[best.name]), rate=GENTLE)
    chosen = gentle if _is_sure(gentle) else best
    return [replace(row, is_chosen=row is chosen) for row in (*rows, gentle)]


def _is_sure(row: Tried) -> bool:
    """Whether a gain is beyond chance; of a single frame all draws are the same, which says nothing."""
    low, high = row.gain
    return 0 < low < high


def _gain(ours: Score, theirs: Score) -> tuple[float, float]:
    if not isinstance(ours, Comparable) or not isinstance(theirs, Comparable):
        _LOGGER.warning("selections cannot be compared beyond chance: %s has no draws", type(ours).__name__)
        return float("nan"), float("nan")
    interval = gained(ours.draws(), theirs.draws())
    return interval.low, interval.high
