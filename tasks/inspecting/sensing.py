"""How well the registered adaptors' sensors find the levels of a plan, on its test split."""

from collections.abc import Callable, Sequence

from gearnn.evaluation.sensing import SensingFacts, measure_sensing
from gearnn.evaluation.solutions import title
from gearnn.gearbox import GearBox
from gearnn.levels import DistortionLevel
from gearnn.plan import Plan
from gearnn.plan.opened import Opened, trusted_by

_TOGETHER = "all kinds"


def sense_levels(
    plan: Plan, on_done: Callable[[int, int], None], *, together: bool = False
) -> dict[str, list[SensingFacts]]:
    """Each level of the plan and the undistorted frames, sensed with the champions' gearboxes.

    Args:
        plan: the plan.
        on_done: called with (frames done, frames in all).
        together: use one gearbox with the adaptors of all kinds, in which kinds may be confused as well;
            else one for every kind.

    Returns:
        Name of the gearbox's kind, or ``all kinds`` -> what was found at every level.

    Raises:
        RegistryError: no adaptors of a kind are registered for the plan's base.
    """
    groups: dict[str, list[DistortionLevel]] = {}
    for level in plan.distortion_levels:
        groups.setdefault(_TOGETHER if together else level.kind, [DistortionLevel()]).append(level)
    opened, done = Opened(plan), 0
    compute = opened.compute
    boxes = {
        name: GearBox.from_registry(
            plan.registered_base, None if together else name, "champion", compute=compute, trust=trusted_by(plan)
        )
        for name in groups
    }
    total = len(opened.frames("test")) * sum(map(len, groups.values()))

    def one_more() -> None:
        nonlocal done
        done += 1
        on_done(done, total)

    return {
        name: [
            measure_sensing(boxes[name], opened.samples("test", level), compute=compute, on_frame=one_more)
            for level in levels
        ]
        for name, levels in groups.items()
    }


def confusion_cells(facts: Sequence[SensingFacts]) -> list[tuple[str, ...]]:
    """The confusion as a table, headings first: true levels down, used gears across, then the cost.

    With gears of several kinds the matrix would be too wide to read; then one column lists the gears used.
    """
    used = sorted({level for one in facts for level in one.used if level is not None} | {one.level for one in facts})
    if len({level.kind for level in used if level.parts}) > 1:
        middle = [("frames by gear", *(_listed(one) for one in facts))]
    else:
        middle = [(_short(level), *(_count(one, level) for one in facts)) for level in used]
        if any(None in one.used for one in facts):
            middle.append(("not sensed", *(_count(one, None) for one in facts)))
    if any(one.unlike for one in facts):
        middle.append(("unlike", *(str(one.unlike or "") for one in facts)))
    figure = title(facts[0].figure)
    columns = [
        ("true level", *(str(one.level) for one in facts)),
        *middle,
        ("right", *map(_right, facts)),
        (f"{figure}, gear given", *(f"{one.given:.1f}" for one in facts)),
        (f"{figure}, gear sensed", *(f"{one.sensed:.1f}" for one in facts)),
        ("cost", *(f"{one.given - one.sensed:.1f}" for one in facts)),
    ]
    return list(zip(*columns, strict=True))


def _count(one: SensingFacts, level: DistortionLevel | None) -> str:
    return str(one.used.get(level, 0) or "")


def _listed(one: SensingFacts) -> str:
    """Gears with their frames, most used first: ``brightness:factor=1.5 60, brightness:factor=2 41``."""
    entries = sorted(one.used.items(), key=lambda entry: -entry[1])
    return ", ".join(f"{level or 'not sensed'} {count}" for level, count in entries)


def _right(one: SensingFacts) -> str:
    """Undistorted frames are PNG here, which kinds that read bytes cannot sense: no error of theirs."""
    return "n/a" if one.level.is_pristine and one.used.keys() == {None} else f"{100 * one.share_right:.0f} %"


def _short(level: DistortionLevel) -> str:
    """A level without the names of its kinds: ``0.3``, ``0.5+10``."""
    values = [str(part).partition("=")[2] for part in level.parts]
    return "+".join(values) or str(level)
