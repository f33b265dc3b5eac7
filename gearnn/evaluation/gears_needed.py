"""The fewest adaptors with which no level loses more than a stated number of points (section 4.3's levels, thinned).

A frame runs with the gear that is nearest to its level, see :func:`gearnn.distortions.nearest`, so an adaptor less
means that its level is served by a neighbour, or by the base. What that costs is read off the scores of every
adaptor at every level.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from gearnn.distortions import nearest
from gearnn.errors import PlanError
from gearnn.levels import DistortionLevel

Scores = Mapping[tuple[DistortionLevel, DistortionLevel], float]
"""(gear, level of the frames) -> score in percent; the base is the gear ``pristine``."""

_MOST_SETS = 20_000


@dataclass(frozen=True, kw_only=True)
class Served:
    """How a level is served by fewer adaptors.

    Attributes:
        level: of the frames.
        gear: that serves it; ``pristine`` is the base.
        regret: points that are lost against the level's own adaptor; negative where the other gear is better.
    """

    level: DistortionLevel
    gear: DistortionLevel
    regret: float


def fewest_gears(levels: Sequence[DistortionLevel], scores: Scores, regret: float) -> list[Served]:
    """The smallest set of adaptors under which every level loses at most ``regret`` points.

    Of sets as small the one whose largest loss is smallest; kinds of distortions are thinned apart. All sets are
    tried, the small ones first, so no smaller one exists.

    Args:
        levels: distorted ones, each with an adaptor.
        scores: of every adaptor at every level of its kind, and of the base at every level.
        regret: in points, at least 0.

    Raises:
        PlanError: a kind has so many levels that not all sets can be tried.
    """
    by_kind: dict[str, list[DistortionLevel]] = {}
    for level in levels:
        by_kind.setdefault(level.kind, []).append(level)
    served = {one.level: one for own in by_kind.values() for one in _fewest(own, scores, regret)}
    return [served[level] for level in levels]


def _fewest(levels: Sequence[DistortionLevel], scores: Scores, regret: float) -> list[Served]:
    preferred = {level: _preferred(level, levels) for level in levels}
    for number in range(len(levels) + 1):
        if sum(math.comb(len(levels), n) for n in range(number + 1)) > _MOST_SETS:
            raise PlanError(
                f"levels of {levels[0].kind}: expected so few that all sets of adaptors can be tried, but of "
                f"{len(levels)} levels more than {number - 1} are needed; allow a larger regret, or split them"
            )
        best: tuple[float, list[Served]] | None = None
        for chosen in map(set, combinations(levels, number)):
            served = [_served(level, preferred[level], chosen, scores) for level in levels]
            worst = max(one.regret for one in served)
            if worst <= regret and (best is None or worst < best[0]):
                best = worst, served
        if best is not None:
            return best[1]
    raise AssertionError("with an adaptor of its own no level loses anything")


def _preferred(level: DistortionLevel, gears: Sequence[DistortionLevel]) -> list[DistortionLevel]:
    """The gears that serve a level rather than the base does, the nearest first."""
    found: list[DistortionLevel] = []
    while len(found) < len(gears):
        gear = nearest(level, [gear for gear in gears if gear not in found])
        if gear not in gears:  # the base is nearer than all that are left
            break
        found.append(gear)
    return found


def _served(
    level: DistortionLevel, preferred: Sequence[DistortionLevel], chosen: Collection[DistortionLevel], scores: Scores
) -> Served:
    gear = next((gear for gear in preferred if gear in chosen), DistortionLevel())
    return Served(level=level, gear=gear, regret=scores[level, level] - scores[gear, level])
