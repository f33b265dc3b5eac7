"""Which gear is nearest, against exact arithmetic: products of fractions in the place of sums of logarithms."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import combinations

import pytest

from gearnn.distortions import apart, nearest, strength, within
from gearnn.levels import DistortionLevel, expand_levels

Exact = Callable[[Fraction, Fraction], Fraction]


def ratio(a: Fraction, b: Fraction) -> Fraction:
    """Two to the power of the distance in octaves."""
    return max(a / b, b / a)


def difference(a: Fraction, b: Fraction) -> Fraction:
    return abs(a - b)


GRIDS: dict[str, tuple[Exact, Fraction, Callable[[Fraction], Fraction], list[str]]] = {
    "brightness:factor": (ratio, Fraction(1), lambda v: max(v, 1 / v), [str(i / 20) for i in range(1, 41)]),
    "resolution:scale": (ratio, Fraction(1), lambda v: -v, [str(i / 20) for i in range(1, 21)]),
    "jpeg:quality": (difference, Fraction(100), lambda v: -v, [str(q) for q in range(5, 101, 5)]),
    "h264:crf": (difference, Fraction(0), lambda v: v, [str(i / 2) for i in range(0, 103, 5)]),
}


@pytest.mark.parametrize("name", GRIDS)
def test_every_level_of_a_grid_goes_to_the_gear_that_exact_arithmetic_says(name: str) -> None:
    exact, pristine, strong, values = GRIDS[name]
    levels = {Fraction(value): DistortionLevel.parse(f"{name}={value}") for value in values}
    wrong = []
    for value, level in levels.items():
        for pair in combinations([v for v in levels if v != pristine], 2):
            candidates = [(exact(value, gear), -strong(gear), gear) for gear in pair]
            best = min(candidates)
            gears = [levels[gear] for gear in pair]
            expected = levels[best[2]] if best[0] <= exact(value, pristine) else DistortionLevel()
            got = nearest(level, gears)
            ties = [c[2] for c in candidates if c[:2] == best[:2]]  # 0.5 and 2 are equally strong
            if expected.parts and len(ties) > 1:
                expected = min(levels[gear] for gear in ties)
            if (level if level.is_pristine else expected) != got:
                wrong.append((value, pair, str(got)))
            assert nearest(level, gears[::-1]) == got
    assert wrong == []


@pytest.mark.parametrize("name", ["paper/brightness", "paper/jpeg", "paper/h264", "paper/resolution"])
def test_every_level_of_the_paper_is_its_own_gear(name: str) -> None:
    levels = expand_levels(name)
    assert [nearest(level, levels) for level in levels] == levels


@pytest.mark.parametrize(
    ("level", "gears", "used"),
    [
        ("0.3", ("0.1", "0.9"), "0.1"),  # 0.3 / 0.1 = 0.9 / 0.3
        ("0.6", ("0.4", "0.9"), "0.4"),
        ("1.5", ("1.25", "1.8"), "1.8"),
        ("0.1", ("0.05", "0.2"), "0.05"),
    ],
)
def test_equally_near_brightnesses_go_to_the_stronger(level: str, gears: Sequence[str], used: str) -> None:
    supported = [DistortionLevel.parse(f"brightness:factor={gear}") for gear in gears]
    assert str(nearest(DistortionLevel.parse(f"brightness:factor={level}"), supported)) == f"brightness:factor={used}"


def test_combinations_are_compared_by_exact_shares_of_their_ranges() -> None:
    levels = [(crf, quality) for crf in (3, 20, 37) for quality in (1, 34, 67)]  # steps of a third of each range
    parsed = {pair: DistortionLevel.parse(f"h264:crf={pair[0]}+jpeg:quality={pair[1]}") for pair in levels}

    def share(a: tuple[int, int], b: tuple[int, int]) -> Fraction:
        return Fraction(abs(a[0] - b[0]), 51) + Fraction(abs(a[1] - b[1]), 99)

    for level in levels:
        for pair in combinations(levels, 2):
            best = min(share(level, gear) for gear in pair)
            ties = [gear for gear in pair if share(level, gear) == best]
            most = max(share(gear, (0, 100)) for gear in ties)
            strongest = min(parsed[gear] for gear in ties if share(gear, (0, 100)) == most)
            expected = strongest if best <= share(level, (0, 100)) else DistortionLevel()
            assert nearest(parsed[level], [parsed[gear] for gear in pair]) == expected


def test_the_strength_of_a_combination_counts_every_kind_by_its_range() -> None:
    dark, coarse = (
        DistortionLevel.parse(text)
        for text in ("brightness:factor=0.1+jpeg:quality=90", "brightness:factor=0.9+jpeg:quality=20")
    )
    assert strength(dark) > strength(coarse)  # 3.3 of 4.3 stops and 10 of 99 qualities, against 0.2 and 80


def test_distances_are_equal_up_to_rounding_and_no_further() -> None:
    assert within(0.1 + 0.2, 0.3, "brightness")
    assert not apart(0.1 + 0.2, 0.3, "brightness")
    assert not within(0.30001, 0.3, "brightness")
    assert apart(0.30001, 0.3, "resolution+jpeg")
    assert within(7.0, 7.0, "jpeg")
    assert within(float("inf"), float("inf"), "jpeg")
