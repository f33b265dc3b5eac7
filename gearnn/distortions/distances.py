"""How far levels are apart, and which supported level is next to one that is not.

Distances are differences of logarithms as often as not, so what is equal on paper differs in its last
digits here. Whatever compares distances does it by :func:`within` and :func:`apart`, which know that.
"""

from collections.abc import Iterable
from functools import cache

from gearnn.distortions.kinds import Values
from gearnn.distortions.registry import kind_of
from gearnn.errors import GearError
from gearnn.levels import DistortionLevel

_ROUNDING = 1e-12
"""Share of a kind's range below which distances are equal: rounding makes 1e-15, levels of five digits more."""


def distance(a: DistortionLevel, b: DistortionLevel) -> float:
    """How far apart two levels are: in the kind's own unit; of combinations, the sum over their
    distortions, each as a share of its kind's range, because units differ.

    The level ``pristine`` stands at the pristine end of every kind. Levels of different kinds are
    infinitely far apart.
    """
    if a.kind == b.kind or not a.parts or not b.parts:
        kinds = [part.kind for part in (a.parts or b.parts)]
        pairs = zip(map(kind_of, kinds), _values(a, kinds), _values(b, kinds), strict=True)
        if len(kinds) == 1:
            return sum(kind.distance(x, y) for kind, x, y in pairs)
        return sum((kind.distance(x, y) / (kind.span or 1.0) for kind, x, y in pairs), 0.0)
    return float("inf")


def within(far: float, limit: float, kind: str) -> bool:
    """Whether a distance is at most a limit, up to rounding.

    Args:
        far: a distance between levels of the kind.
        limit: in the same unit.
        kind: of the levels, such as ``jpeg`` or ``resolution+jpeg``.
    """
    return far <= limit + _rounding(kind)


def apart(a: float, b: float, kind: str) -> bool:
    """Whether two distances between levels of a kind differ by more than rounding."""
    return not (within(a, b, kind) and within(b, a, kind))


def strength(level: DistortionLevel) -> float:
    """How strongly a level distorts; comparable between levels of one kind only.

    Of a combination it is the distance from ``pristine``, because the scales of its kinds differ.
    """
    if len(level.parts) > 1:
        return distance(level, DistortionLevel())
    return sum((kind_of(part.kind).strength(dict(part.parameters)) for part in level.parts), 0.0)


def nearest(level: DistortionLevel, supported: Iterable[DistortionLevel]) -> DistortionLevel:
    """The supported level next to this one, the base's pristine level included; ties go to the stronger distortion.

    Distances that differ by rounding only are ties. Of equally strong levels the first in their order
    is taken, so the answer does not depend on that of ``supported``.

    Raises:
        GearError: no supported level is of this kind.
    """
    if not level.parts:
        return level
    supported = list(supported)
    same = [gear for gear in supported if gear.kind == level.kind]
    if not same:
        kinds = ", ".join(sorted({gear.kind for gear in supported})) or "none"
        raise GearError(f"no adaptor for the distortion {level.kind}; this gearbox has {kinds}")
    candidates = [DistortionLevel(), *same]
    far = [distance(level, gear) for gear in candidates]
    most = min(far) + _rounding(level.kind)
    found = _strongest([gear for gear, value in zip(candidates, far, strict=True) if value <= most])
    return level if not found.parts and level.is_pristine else found


def _strongest(levels: list[DistortionLevel]) -> DistortionLevel:
    """Of equally near levels the one that distorts most; none distorts less than ``pristine``."""
    distorted = [level for level in levels if level.parts]
    if len(levels) == 1 or not distorted:
        return levels[0]
    least = max(map(strength, distorted)) - _rounding(distorted[0].kind)
    return min(level for level in distorted if strength(level) >= least)


@cache
def _rounding(kind: str) -> float:
    """By how much equal distances may differ, in the kind's unit; those of combinations are shares."""
    return _ROUNDING * (1.0 if "+" in kind else kind_of(kind).span or 1.0)


def _values(level: DistortionLevel, kinds: list[str]) -> list[Values]:
    if level.parts:
        return [dict(part.parameters) for part in level.parts]
    return [kind_of(kind).pristine for kind in kinds]
