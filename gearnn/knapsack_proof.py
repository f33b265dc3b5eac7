"""Proof that a selection of the knapsack is optimal, or a better selection: dynamic programming over a core.

The method is that of D. Pisinger, "A minimal algorithm for the 0-1 knapsack problem", Operations Research 45
(1997). Layers are ordered by value per size; the selection of the first ones that fit is nearly right, and an
optimal one differs from it in few layers around the first that does not fit. From there outwards layers are
put in on the one side and taken out on the other. Of all that results only states are kept that are not
dominated (no more size, no less value), and whose bound, by filling up with parts of the next layer, exceeds
the best selection known. When none is left, that one is optimal. Sizes are whole numbers, so nothing is rounded
but the values' sums.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

_ROUNDING = 1e-12
_MOST_STATES = 30_000_000
"""Kept in all stages together, 4 bytes each: a limit in work, not in time, so that results repeat."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A selection of a knapsack.

    Attributes:
        selection: indices, ascending.
        gap: by how much of its value a better one can exceed it at most; 0 where it is proven optimal.
    """

    selection: list[int]
    gap: float


def improved(values: Sequence[float], sizes: Sequence[int], bound: int, start: Sequence[int]) -> Found:
    """The best selection, from one to start with.

    Args:
        values: of the items, positive.
        sizes: of the items, from 1 to the bound; together more than the bound.
        bound: largest size in all.
        start: any selection that fits; it stays unless another is better by more than 1e-12 of its value.
    """
    value, size = np.array(values, dtype=np.float64), np.array(sizes, dtype=np.int64)
    order = np.argsort(-value / size, kind="stable")
    search = _Search(value[order], size[order], bound, best=float(value[list(start)].sum()))
    most = _most_by_number(value, size, bound)
    if search.best < most * (1.0 - _ROUNDING):
        search.run()
        search.gap = max(0.0, min(search.gap, most / search.best * (1.0 - _ROUNDING) - 1.0))
    if search.found is None:
        return Found(selection=sorted(start), gap=search.gap)
    taken = search.taken(*search.found)
    return Found(selection=sorted(order[taken].tolist()), gap=search.gap)


def _most_by_number(value: np.ndarray, size: np.ndarray, bound: int) -> float:
    """What no selection exceeds, because so many of the smallest items fit and no more.

    Any penalty an item gives such a limit: the best of parts of items less their penalties, plus the penalty of
    as many items as fit. Where values are sizes plus a constant, the best penalty is that constant and the limit
    the optimum (S. Martello and P. Toth, "Upper bounds and algorithms for hard 0-1 knapsack problems", 1997).
    """
    number = int(np.searchsorted(np.sort(size).cumsum(), bound, side="right"))

    def most(penalty: float) -> float:
        left = value - penalty
        order = np.argsort(-left / size, kind="stable")
        left, taken = np.maximum(left[order], 0.0), size[order].cumsum()
        parts = np.clip((bound - taken + size[order]) / size[order], 0.0, 1.0)
        return float(left @ parts) + penalty * number

    low, high = 0.0, float(value.max())
    for _ in range(100):  # the limit is convex in the penalty
        a, b = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, b) if most(a) <= most(b) else (a, high)
    return min(most(0.0), most((low + high) / 2))


@dataclass
class _Search:
    """States of the search: what they weigh and are worth, and from which states of the stage before they came."""

    value: np.ndarray
    size: np.ndarray
    bound: int
    best: float
    found: tuple[int, int] | None = None
    gap: float = 0.0
    toggled: list[int] = field(default_factory=list)
    origins: list[np.ndarray] = field(default_factory=list)

    def run(self) -> None:
        """Widen the core until no state is left that could become better than the best."""
        fits = int(np.searchsorted(self.size.cumsum(), self.bound, side="right"))
        self.first = fits  # the layer that no longer fits
        self.weight, self.worth = self.size[:fits].sum()[None], self.value[:fits].sum()[None]
        left, right, states = fits - 1, fits, 1
        self._note()
        while left >= 0 or right < len(self.size):
            self._bounded(left, right)
            if not len(self.weight):
                return
            if states > _MOST_STATES:
                self.gap = float(self._bounds(left, right).max()) / self.best - 1.0
                return
            inwards = right < len(self.size) and (len(self.toggled) % 2 == 0 or left < 0)
            item, sign = (right, 1) if inwards else (left, -1)
            left, right = (left, right + 1) if inwards else (left - 1, right)
            self._widen(item, sign)
            states += len(self.weight)
            self._note()

    def taken(self, stage: int, state: int) -> np.ndarray:
        """The selection, in the order by value per size, that leads to a state; bool [n]."""
        selected = np.arange(len(self.size)) < self.first
        for item, origin in zip(self.toggled[:stage][::-1], self.origins[:stage][::-1], strict=True):
            before = int(origin[state])
            state = before if before >= 0 else -before - 1
            selected[item] ^= before < 0
        return selected

    def _widen(self, item: int, sign: int) -> None:
        """Every state with and without another choice for one item; those that are dominated go."""
        weight = np.concatenate([self.weight, self.weight + sign * self.size[item]])
        worth = np.concatenate([self.worth, self.worth + sign * self.value[item]])
        order = np.argsort(weight, kind="stable")
        weight, worth = weight[order], worth[order]
        highest = np.maximum.accumulate(worth)
        kept = np.r_[True, worth[1:] > highest[:-1]]
        order, weight, worth = order[kept], weight[kept], worth[kept]
        last = np.r_[weight[1:] != weight[:-1], True]  # of equal weights the later is worth more
        order, self.weight, self.worth = order[last], weight[last], worth[last]
        half = len(self.index)
        origin = np.where(order < half, self.index[order % half], -self.index[order % half] - 1)
        self.toggled.append(item)
        self.origins.append(origin.astype(np.int32))

    def _note(self) -> None:
        """Remember the best state that fits."""
        self.index = np.arange(len(self.weight))
        number = int(np.searchsorted(self.weight, self.bound, side="right"))
        if number and self.worth[number - 1] > self.best * (1.0 + _ROUNDING):  # worth rises with weight
            self.best, self.found = float(self.worth[number - 1]), (len(self.toggled), number - 1)

    def _bounds(self, left: int, right: int) -> np.ndarray:
        """What a state can become worth at most."""
        room = self.bound - self.weight
        fill = self.value[right] / self.size[right] if right < len(self.size) else 0.0
        shed = self.value[left] / self.size[left] if left >= 0 else np.inf
        filled: np.ndarray = self.worth + np.where(room >= 0, room * fill, 0.0)
        return filled + np.where(room < 0, np.minimum(room, -1) * shed, 0.0)

    def _bounded(self, left: int, right: int) -> None:
        kept = self._bounds(left, right) > self.best * (1.0 + _ROUNDING)
        self.weight, self.worth, self.index = self.weight[kept], self.worth[kept], self.index[kept]
