"""Which layers to adapt: the knapsack of Eq. 2, solved to proven optimality with PuLP.

Raw sensitivities run from 1e-3 down to 1e-6, near the tolerances of the CBC solver, which then calls
answers optimal that are not. Values are therefore scaled before solving; the bound is checked again
in integers afterwards.
"""

import math
from collections.abc import Sequence

from gearnn.errors import BoundError, SolverError

_SCALE = 1e6  # largest value in the solver's objective; its tolerances of 1e-5 and 1e-6 are far below


def select_layers(sensitivity: Sequence[float], sizes: Sequence[int], bound: int) -> list[int]:
    """Layers S that maximise the sum of v_i subject to the sum of N_i <= M (Eq. 2).

    Args:
        sensitivity: v_i of every layer, finite and not negative.
        sizes: N_i of every layer, in values, positive.
        bound: M, in values.

    Returns:
        Indices of the chosen layers in ascending order; layers without any value are never chosen.

    Raises:
        ValueError: the lists differ in length, or hold a negative or non-finite number.
        BoundError: no layer with a value fits.
        SolverError: the solver did not prove optimality.

    >>> select_layers([0.6, 0.5, 0.5], [6, 5, 5], bound=10)
    [1, 2]
    """
    _check(sensitivity, sizes)
    candidates = [i for i, v in enumerate(sensitivity) if v > 0 and sizes[i] <= bound]
    if not candidates:
        smallest = min((sizes[i] for i, v in enumerate(sensitivity) if v > 0), default=None)
        needed = "no layer changed at all" if smallest is None else f"the smallest layer needs {smallest}"
        raise BoundError(f"bound: expected room for at least one layer, but got {bound} values; {needed}")
    largest = max(sensitivity[i] for i in candidates)
    chosen = _solve([sensitivity[i] / largest * _SCALE for i in candidates], [sizes[i] for i in candidates], bound)
    selection = [candidates[i] for i in chosen]
    if sum(sizes[i] for i in selection) > bound:
        raise SolverError(f"the solver's selection needs {sum(sizes[i] for i in selection)} values, over {bound}")
    return selection


def _solve(values: Sequence[float], sizes: Sequence[int], bound: int) -> list[int]:
    import pulp

    problem = pulp.LpProblem("layers", pulp.LpMaximize)
    take = [problem.add_variable(f"take_{i}", cat=pulp.LpBinary) for i in range(len(values))]
    problem += pulp.lpSum(value * variable for value, variable in zip(values, take, strict=True))
    problem += pulp.lpSum(size * variable for size, variable in zip(sizes, take, strict=True)) <= bound
    # PuLP 3 carries a CBC; later versions find the one on the path.
    carried = getattr(pulp.apis.coin_api, "pulp_cbc_path", None)
    problem.solve(pulp.COIN_CMD(path=carried, msg=False, gapRel=0.0, gapAbs=0.0))
    if problem.sol_status != pulp.LpSolutionOptimal:
        raise SolverError(f"expected a proven optimum of the knapsack, but CBC says {pulp.LpStatus[problem.status]}")
    return [i for i, variable in enumerate(take) if round(variable.value() or 0.0) == 1]


def _check(sensitivity: Sequence[float], sizes: Sequence[int]) -> None:
    if len(sensitivity) != len(sizes):
        raise ValueError(f"expected one size per sensitivity, but got {len(sizes)} for {len(sensitivity)}")
    for i, value in enumerate(sensitivity):
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"expected sensitivity {i} to be finite and not negative, but got {value}")
    for i, size in enumerate(sizes):
        if size < 1:
            raise ValueError(f"expected size {i} to be at least 1 value, but got {size}")
