"""How far levels are apart, and which supported level is next to one that is not."""

from collections.abc import Iterable

from gearnn.distortions.kinds import Values
from gearnn.distortions.registry import kind_of
from gearnn.errors import GearError
from gearnn.levels import DistortionLevel


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


def strength(level: DistortionLevel) -> float:
    """How strongly a level distorts; comparable between levels of one kind only."""
    return sum((kind_of(part.kind).strength(dict(part.parameters)) for part in level.parts), 0.0)


def nearest(level: DistortionLevel, supported: Iterable[DistortionLevel]) -> DistortionLevel:
    """The supported level next to this one, the base's pristine level included; ties go to the stronger distortion.

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
    found = min(candidates, key=lambda c: (distance(level, c), -strength(c) if c.parts else float("inf")))
    return level if not found.parts and level.is_pristine else found


def _values(level: DistortionLevel, kinds: list[str]) -> list[Values]:
    if level.parts:
        return [dict(part.parameters) for part in level.parts]
    return [kind_of(kind).pristine for kind in kinds]
