"""Which gear a frame gets: the level it has, the gears there are, and what to do where they do not meet.

Three steps: what a frame's level is (:class:`gearnn.distortions.Sensor`, or a hint), which gear that
means (:func:`choose`), and, within a stream, whether a change of gear is worth it (:class:`Steady`).
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from gearnn.distortions import (
    Received,
    Sensed,
    Sensor,
    apart,
    ask,
    distance,
    kind_of,
    look_closer,
    nearest,
    strength,
    within,
)
from gearnn.errors import GearError, LevelError, SenseError, SeveralDistortionsError
from gearnn.levels import DistortionLevel

OffMap = Literal["error", "base", "nearest"]
"""What to do with a frame off the map: refuse it, run the base, or take the gear that is nearest all the same."""

_UNLIKE = "unlike every level of"

OFF_MAP: tuple[str, ...] = get_args(OffMap)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What happens to frames that are off the map of a gearbox.

    Off the map is a frame (a) farther from every gear of its kind than ``max_distance``; (b) with
    several distortions that no adaptor combines; (c) of a kind without adaptors; (d) whose level cannot
    be sensed; (e) unlike all that its level was learnt from, by more than ``max_misfit``. ``nearest`` takes
    for (a) and (e) the nearest gear, for (b) that of the distortion that stands farthest from
    undistorted, as a share of its kind's range; at (c) and (d) nothing is near, and it is an error, as
    with ``error``. ``base`` runs the base for all five. Answers say why they are off the map.

    Attributes:
        off_map: see above.
        max_distance: kind -> distance in the kind's unit (JPEG quality, CRF, octaves); other kinds have no limit.
        max_misfit: kind -> misfit in the kind's unit; other kinds have their own limit,
            :attr:`gearnn.distortions.Kind.max_misfit`. ``inf`` takes every frame as sure.
        closely: look at pixels where a distortion may hide that the bytes do not state and that has a
            stronger gear: a JPEG that was saved before.
    """

    off_map: OffMap = "nearest"
    max_distance: Mapping[str, float] = field(default_factory=dict)
    max_misfit: Mapping[str, float] = field(default_factory=dict)
    closely: bool = True

    def __post_init__(self) -> None:
        if self.off_map not in OFF_MAP:
            raise GearError(f"off_map: expected {', '.join(OFF_MAP)}, but got {self.off_map!r}")
        for name, limits in (("max_distance", self.max_distance), ("max_misfit", self.max_misfit)):
            for kind, limit in limits.items():
                kind_of(kind.partition("+")[0] if name == "max_distance" else kind)
                if not limit >= 0:
                    raise LevelError(f"{name} of {kind}: expected a number of at least 0, but got {limit}")

    def unlike(self, sensed: Sensed) -> str:
        """Why an input is unlike all that its level was learnt from; nothing where it is not."""
        for kind, misfit in sensed.by_kind.items():
            limit = self.max_misfit.get(kind, kind_of(kind).max_misfit)
            if not within(misfit, limit, kind):
                return f"{_UNLIKE} {kind}: a misfit of {misfit:.3g}, more than {limit:g}"
        return ""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The gear for a frame.

    Attributes:
        sensed: level read from the input, or given; None where it cannot be sensed.
        used: the supported level whose gear runs, a pristine one for the base.
        misfit: how far the input was from the level sensed, in the kind's unit; of a combination the sum.
        distance: from the level sensed to the one used, in the kind's unit; for a combination as a share of ranges.
        off_map: why the frame is off the map; nothing where it is not.
        reach: largest distance that the policy allows for the level's kind.
        note: what else was found out about the input, such as that a JPEG was saved twice.
        to_base: whether the base runs because the policy runs it for frames off the map.
    """

    sensed: DistortionLevel | None
    used: DistortionLevel
    misfit: float = 0.0
    distance: float = 0.0
    off_map: str = ""
    reach: float = math.inf
    note: str = ""
    to_base: bool = False

    @property
    def is_sure(self) -> bool:
        """Whether the level could be sensed, of a frame that is like those that levels were learnt from."""
        return self.sensed is not None and not self.off_map.startswith(_UNLIKE)


def choose(sensed: Sensed | SenseError, gears: Collection[DistortionLevel], policy: Policy) -> Choice:
    """The gear for a level.

    Args:
        sensed: the level, or why it cannot be sensed.
        gears: levels that have an adaptor.
        policy: what to do off the map.

    Raises:
        SenseError: the level cannot be sensed, and the policy does not run the base then.
        GearError: there is no gear that the policy allows.
    """
    if isinstance(sensed, SeveralDistortionsError) and policy.off_map == "nearest":
        return replace(choose(_strongest(sensed), gears, policy), off_map="several distortions")
    if isinstance(sensed, SenseError):
        if policy.off_map != "base":
            raise sensed
        return Choice(sensed=None, used=DistortionLevel(), off_map="the level cannot be sensed", to_base=True)
    return _choose(sensed, gears, policy)


def _choose(sensed: Sensed, gears: Collection[DistortionLevel], policy: Policy) -> Choice:
    """The gear for a level that is known, as far as its misfit lets it be."""
    level = sensed.level
    choice = Choice(sensed=level, used=DistortionLevel(), misfit=sensed.misfit, note=sensed.note)
    on_base = replace(choice, distance=distance(level, DistortionLevel()), to_base=True)
    try:
        used = nearest(level, gears)
    except GearError:
        if policy.off_map != "base":
            raise
        return replace(on_base, off_map=f"no adaptor for {level.kind}")
    far = distance(level, used) if level.parts else 0.0
    limit = policy.max_distance.get(level.kind, math.inf)
    choice = replace(choice, used=used, distance=far, reach=limit)
    unlike = policy.unlike(sensed)
    too_far = level.parts and not within(far, limit, level.kind)
    reason = unlike or (f"{far:.3g} away from {used}, more than {limit:g}" if too_far else "")
    if reason and policy.off_map == "error":
        if unlike:
            raise SenseError(f"sensed {level}, but the frame is {unlike}; give the level instead")
        raise GearError(f"{level} is {far:g} away from {used}, the nearest gear; expected at most {limit:g}")
    if reason and policy.off_map == "base":
        return replace(on_base, off_map=reason, reach=limit)
    return replace(choice, off_map=reason)


def check_hint(hint: DistortionLevel, received: Received, gears: Collection[DistortionLevel]) -> None:
    """Make sure that the bytes of a frame do not say another gear than a hint does.

    Only kinds that write their level into bytes are asked; estimates from pixels contradict nobody. A
    JPEG that was saved before, at the quality that the hint says, is no contradiction.

    Raises:
        SenseError: the bytes say another level, for which another gear runs.
    """
    kinds = [hint.parts[-1].kind] if hint.parts else sorted({gear.kind for gear in gears})
    for kind in map(kind_of, (name for name in kinds if "+" not in name)):
        if kind.sense is None:
            continue
        try:
            sensed = ask(kind, received)
            if _same_gear(hint, sensed.level, gears):
                continue
            if _same_gear(hint, look_closer(kind, received, sensed).level, gears):
                continue
        except (SenseError, GearError):
            continue
        told = _behind(hint, sensed.level)
        raise SenseError(
            f"expected a frame of {hint}, as the hint says, but its bytes say {told}; "
            f"leave the hint out to go by the bytes, or have the gearbox trust it"
        )


def _same_gear(hint: DistortionLevel, told: DistortionLevel, gears: Collection[DistortionLevel]) -> bool:
    """Whether what the bytes say runs with the gear of a hint.

    Raises:
        GearError: there is no gear of this kind.
    """
    return gear_of(nearest(_behind(hint, told), gears)) == gear_of(nearest(hint, gears))


def _behind(hint: DistortionLevel, told: DistortionLevel) -> DistortionLevel:
    """What the bytes say of the last distortion, behind the others of a hint, which left none."""
    return DistortionLevel((*hint.parts[:-1], *told.parts)) if hint.parts else told


class Steady:
    """Hysteresis for one stream, so that a level that jitters between two gears does not shift with every frame.

    A shift happens at once where the new gear is nearer by more than ``margin``, and else after
    ``patience`` frames in a row that all ask for it. Exactly at the margin the stronger distortion's gear
    runs. Between kinds, and where the policy does not allow the present gear, it always happens at once. A frame
    whose level is not sure, because it is unlike all that levels were learnt from or cannot be sensed, never shifts
    and does not count: it runs with the present gear, or with the base where the policy says so.

    Args:
        margin: 1.0 asks for a gear that is more than twice as near as the present one.
        patience: frames.
    """

    def __init__(self, *, margin: float = 1.0, patience: int = 5) -> None:
        if margin < 0 or patience < 1:
            raise GearError(f"expected a margin of at least 0 and a patience of at least 1, got {margin}, {patience}")
        self.margin, self.patience = margin, patience
        self._current: DistortionLevel | None = None
        self._wanted: DistortionLevel | None = None
        self._times = 0

    def __call__(self, choice: Choice) -> Choice:
        """The choice for the next frame of the stream, with the present gear where a shift is not worth it."""
        current, wanted = self._current, gear_of(choice.used)
        if not choice.is_sure or choice.sensed is None:
            return self._unmoved(choice)
        if current is None or wanted == current or choice.to_base:
            return self._shift(choice)
        held = distance(choice.sensed, current) if choice.sensed.parts or current.parts else 0.0
        self._times = self._times + 1 if wanted == self._wanted else 1
        self._wanted = wanted
        if held == math.inf or not within(held, choice.reach, choice.sensed.kind):
            return self._shift(choice)
        if self._is_nearer(choice, current, held) or self._times >= self.patience:
            return self._shift(choice)
        return replace(choice, used=current, distance=held)

    def _unmoved(self, choice: Choice) -> Choice:
        """What a frame whose level is not sure runs with; nothing is learnt from it."""
        current, sensed = self._current, choice.sensed
        if current is None or sensed is None or choice.to_base or gear_of(choice.used) == current:
            return choice
        return replace(choice, used=current, distance=distance(sensed, current))

    def _is_nearer(self, choice: Choice, current: DistortionLevel, held: float) -> bool:
        """Whether a choice's gear is nearer than the present one by the margin; a tie goes to the stronger."""
        kind, scaled = current.kind if current.parts else choice.used.kind, choice.distance * (1.0 + self.margin)
        if apart(scaled, held, kind):
            return scaled < held
        wanted = choice.used
        return bool(wanted.parts) and (not current.parts or strength(wanted) > strength(current))

    def _shift(self, choice: Choice) -> Choice:
        self._current, self._wanted, self._times = gear_of(choice.used), None, 0
        return choice


def gear_of(level: DistortionLevel) -> DistortionLevel:
    """All pristine levels as one, because one network, the base, runs at them."""
    return DistortionLevel() if level.is_pristine else level


def sense_or_reason(sensor: Sensor, received: Received, *, closely: bool = True) -> Sensed | SenseError:
    """What a sensor says of a frame, or why it cannot."""
    try:
        return sensor(received, closely=closely)
    except SenseError as error:
        return error


def _strongest(several: SeveralDistortionsError) -> Sensed:
    """Of several distortions the one that stands farthest from undistorted, as a share of its kind's range."""

    def share(sensed: Sensed) -> float:
        span = kind_of(sensed.level.parts[0].kind).span or 1.0
        return distance(sensed.level, DistortionLevel()) / (span if len(sensed.level.parts) == 1 else 1.0)

    most = max(map(share, several.answers)) - 1e-12  # equal shares that rounding makes unequal
    strongest: Sensed = min((a for a in several.answers if share(a) >= most), key=lambda answer: answer.level)
    return strongest
