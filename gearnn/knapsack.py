"""Which layers to adapt: the knapsack of Eq. 2, stated with PuLP, solved with CBC, and settled exactly.

CBC works with tolerances: it calls answers optimal that are not, where sensitivities are small or sizes are
in the billions, and on instances whose layers are worth about what they weigh it does not end. So it gets a
number of nodes, not of seconds, and :mod:`gearnn.knapsack_proof` proves its answer or finds a better one.
"""

import logging
import math
from collections.abc import Sequence

from gearnn.errors import BoundError, SolverError
from gearnn.knapsack_proof import improved

_SCALE = 1e6  # largest value in the solver's objective; its tolerances of 1e-5 and 1e-6 are far below
_NODES = 1000
_LOGGER = logging.getLogger("gearnn")


def select_layers(sensitivity: Sequence[float], sizes: Sequence[int], bound: int) -> list[int]:
    """Layers S that maximise the sum of v_i subject to the sum of N_i <= M (Eq. 2).

    Sums of sensitivities are compared to within 1e-12 of their value, which is the rounding of such sums. The
    same input gives the same selection, however fast the machine is; of layers with the same sensitivity and
    size those that come first are chosen. Where the proof is given up, the best selection found is logged with
    how far from the optimum it can be at most; that needs hundreds of layers whose sensitivities are all but
    proportional to sizes of many millions.

    Args:
        sensitivity: v_i of every layer, finite and not negative.
        sizes: N_i of every layer, in values, positive; 0 for layers of no values, whose v_i is 0.
        bound: M, in values.

    Returns:
        Indices of the chosen layers in ascending order; layers without any value are never chosen.

    Raises:
        ValueError: the lists differ in length, or hold a negative or non-finite number.
        BoundError: no layer with a value fits.
        SolverError: the selection exceeds the bound, which would be a fault of ours.

    >>> select_layers([0.6, 0.5, 0.5], [6, 5, 5], bound=10)
    [1, 2]
    """
    _check(sensitivity, sizes)
    candidates = [i for i, v in enumerate(sensitivity) if v > 0 and sizes[i] <= bound]
    if not candidates:
        smallest = min((sizes[i] for i, v in enumerate(sensitivity) if v > 0), default=None)
        needed = "no layer changed at all" if smallest is None else f"the smallest layer needs {smallest}"
        raise BoundError(f"bound: expected room for at least one layer, but got {bound} values; {needed}")
    if sum(sizes[i] for i in candidates) <= bound:
        return candidates
    largest = max(sensitivity[i] for i in candidates)
    unit = math.gcd(*(sizes[i] for i in candidates))
    chosen = _settled(
        [sensitivity[i] / largest for i in candidates], [sizes[i] // unit for i in candidates], bound // unit
    )
    selection = [candidates[i] for i in chosen]
    if sum(sizes[i] for i in selection) > bound:
        raise SolverError(f"the solver's selection needs {sum(sizes[i] for i in selection)} values, over {bound}")
    return selection


def _settled(values: Sequence[float], sizes: Sequence[int], bound: int) -> list[int]:
    """CBC's selection where it is optimal, else a better one; values are at most 1."""
    start = _solve(values, sizes, bound)
    found = improved(values, sizes, bound, start)
    if found.gap > 0:
        _LOGGER.warning(
            "the layers were chosen without a proof that no others are better: others can have at most %.2g %% more "
            "sensitivity in all",
            100 * found.gap,
        )
    return _first_of_equals(found.selection, values, sizes)


def _solve(values: Sequence[float], sizes: Sequence[int], bound: int) -> list[int]:
    """What CBC finds within its nodes; nothing where that exceeds the bound, or it fails."""
    import pulp

    problem = pulp.LpProblem("layers", pulp.LpMaximize)
    take = [problem.add_variable(f"take_{i}", cat=pulp.LpBinary) for i in range(len(values))]
    problem += pulp.lpSum(_SCALE * value * variable for value, variable in zip(values, take, strict=True))
    problem += pulp.lpSum(size / bound * variable for size, variable in zip(sizes, take, strict=True)) <= 1.0
    # PuLP 3 carries a CBC; later versions find the one on the path.
    carried = getattr(pulp.apis.coin_api, "pulp_cbc_path", None)
    try:
        problem.solve(pulp.COIN_CMD(path=carried, msg=False, gapRel=0.0, gapAbs=0.0, maxNodes=_NODES))
    except pulp.PulpSolverError as error:
        _LOGGER.info("CBC gave no answer, so the layers are chosen without it: %s", error)
        return []
    chosen = [i for i, variable in enumerate(take) if round(variable.value() or 0.0) == 1]
    return chosen if sum(sizes[i] for i in chosen) <= bound else []


def _first_of_equals(selection: Sequence[int], values: Sequence[float], sizes: Sequence[int]) -> list[int]:
    """As many layers of each value and size as were selected, but the first of them."""
    wanted: dict[tuple[float, int], int] = {}
    for i in selection:
        wanted[values[i], sizes[i]] = wanted.get((values[i], sizes[i]), 0) + 1
    chosen = []
    for i, kind in enumerate(zip(values, sizes, strict=True)):
        if wanted.get(kind, 0) > 0:
            wanted[kind] -= 1
            chosen.append(i)
    return chosen


def _check(sensitivity: Sequence[float], sizes: Sequence[int]) -> None:
    if len(sensitivity) != len(sizes):
        raise ValueError(f"expected one size per sensitivity, but got {len(sizes)} for {len(sensitivity)}")
    for i, value in enumerate(sensitivity):
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"expected sensitivity {i} to be finite and not negative, but got {value}")
    for i, size in enumerate(sizes):
        if size < 0 or (size == 0 and sensitivity[i] > 0):
            raise ValueError(f"expected size {i} to be at least 1 value, but got {size}")
