"""The fewest adaptors."""

from collections.abc import Sequence
from itertools import chain, combinations

import numpy as np
import pytest

from gearnn.distortions import nearest
from gearnn.errors import PlanError
from gearnn.evaluation.gears_needed import Scores, fewest_gears
from gearnn.levels import DistortionLevel, expand_levels

BASE = DistortionLevel()
JPEG = expand_levels("jpeg:quality={10..90..10}")


def planted(levels: Sequence[DistortionLevel], a_step: float, base: float) -> Scores:
    """An adaptor loses so many points with each level that it is away from its own; the base has its own score."""
    scores = {
        (gear, level): 50.0 - a_step * abs(i - j) for i, gear in enumerate(levels) for j, level in enumerate(levels)
    }
    return scores | {(BASE, level): base + 2.0 * i for i, level in enumerate(levels)}


@pytest.mark.parametrize(("regret", "number"), [(0.0, 9), (0.5, 3), (1.0, 2), (10.0, 1)])
def test_neighbours_serve_each_other_as_far_as_the_regret_allows(regret: float, number: int) -> None:
    served = fewest_gears(JPEG, planted(JPEG, 0.5, 20.0), regret)
    assert len({one.gear for one in served} - {BASE}) == number
    assert max(one.regret for one in served) <= regret
    assert [one.level for one in served] == JPEG


def test_where_the_base_is_as_good_nothing_is_needed() -> None:
    assert {one.gear for one in fewest_gears(JPEG, planted(JPEG, 0.5, 49.0), 1.0)} == {BASE}


def test_kinds_are_thinned_apart() -> None:
    levels = [*JPEG[:2], *expand_levels("brightness:factor={0.1,0.2}")]
    served = fewest_gears(levels, planted(levels, 0.1, 0.0), 0.15)
    assert len({one.gear for one in served}) == 2
    assert all(one.gear.kind == one.level.kind for one in served)


def test_no_smaller_set_exists() -> None:
    generator = np.random.default_rng(0)
    levels = JPEG[:6]
    for _ in range(10):
        scores = {(g, level): float(generator.random()) for g in (BASE, *levels) for level in levels}
        scores |= {(level, level): 1.0 for level in levels}
        regret = float(generator.random())
        found = {one.gear for one in fewest_gears(levels, scores, regret)} - {BASE}
        for chosen in chain.from_iterable(combinations(levels, n) for n in range(len(found))):
            gears = [nearest(level, chosen) if chosen else BASE for level in levels]
            assert any(1.0 - scores[gear, level] > regret for gear, level in zip(gears, levels, strict=True))


def test_too_many_levels_are_refused_in_one_line() -> None:
    levels = expand_levels("jpeg:quality={1..60}")
    with pytest.raises(PlanError, match="of 60 levels more than 2 are needed; allow a larger regret"):
        fewest_gears(levels, planted(levels, 5.0, 0.0), 1.0)
