"""Sensing: which distortion level an input has, read from its bytes or by comparison with calibration frames."""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from gearnn.distortions import h264, jpeg
from gearnn.distortions.calibration import Calibration
from gearnn.distortions.distances import distance, nearest, strength
from gearnn.distortions.kinds import Kind, Reading, Reference, Values
from gearnn.distortions.received import Received
from gearnn.distortions.registry import kind_of, names
from gearnn.errors import DataError, GearNNError, LevelError, SenseError, SeveralDistortionsError
from gearnn.levels import DistortionLevel, LevelPart


@dataclass(frozen=True)
class Sensed:
    """The answer of a sensor.

    Attributes:
        level: the level that fits the input best.
        misfit: distance between the input and that level, 0.0 for an exact fit; its unit is the kind's. Of a
            combination the sum over its kinds.
        misfits: kind -> misfit, of the level's kinds and of others that looked at the input and found
            nothing; may be left out where the level has one part.
        note: what else was found out about the input, such as that a JPEG was saved twice.
    """

    level: DistortionLevel
    misfit: float
    misfits: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def by_kind(self) -> Mapping[str, float]:
        """Kind -> misfit; of a combination that does not say whose misfit it is, of each."""
        return self.misfits or {part.kind: self.misfit for part in self.level.parts}


class Sensor:
    """Senses the levels of some kinds.

    Args:
        levels: the levels that are supported; their kinds and combinations are what is looked for.
        calibration: of those of their kinds that compare, at all of the levels and at ``pristine``.
    """

    def __init__(self, levels: Iterable[DistortionLevel], calibration: Iterable[Calibration] = ()) -> None:
        self._levels = list(levels)
        self._kinds = {level.kind: tuple(part.kind for part in level.parts) for level in self._levels if level.parts}
        calibration = list({(c.kind, c.level): c for c in calibration}.values())
        self._references = {
            (combination, kind): _references(combination, kind, calibration)
            for combination, kinds in self._kinds.items()
            for kind in kinds
        }

    def __call__(self, received: Received, *, closely: bool = True) -> Sensed:
        """The level of one input.

        Args:
            received: the input.
            closely: look again, at pixels, where a distortion may hide that its bytes do not state and
                that has a stronger gear: a JPEG that was saved before.

        Returns:
            The level, with the misfits of all kinds that looked.

        Raises:
            SenseError: no kind can sense it; or several kinds find a distortion, and no supported level
                combines them.
        """
        answers, reasons = [], []
        for combination in self._kinds:
            try:
                answers.append(self._sense(combination, received, closely))
            except SenseError as error:
                reasons.append(str(error))
        if not answers:
            raise SenseError(f"{'; '.join(dict.fromkeys(reasons)) or 'no levels to look for'}; give the level instead")
        distorted = [a for a in answers if _distorting(a.level) and nearest(a.level, self._levels).parts]
        distorted = _without_implied(distorted)
        return _with_all_misfits(_the_one(distorted) if distorted else answers[0], answers)

    def _sense(self, combination: str, received: Received, closely: bool) -> Sensed:
        kinds = self._kinds[combination]
        last = len(kinds) - 1
        found = [
            self._sense_part(combination, name, received, closely, is_last=index == last)
            for index, name in enumerate(kinds)
        ]
        return Sensed(
            DistortionLevel(tuple(part for sensed in found for part in sensed.level.parts)),
            sum(sensed.misfit for sensed in found),
            misfits={name: sensed.misfit for name, sensed in zip(kinds, found, strict=True)},
            note="; ".join(sensed.note for sensed in found if sensed.note),
        )

    def _sense_part(self, combination: str, name: str, received: Received, closely: bool, *, is_last: bool) -> Sensed:
        kind = kind_of(name)
        if kind.sense is not None:
            if not is_last:
                raise SenseError(f"{name} in {combination}: its bytes are gone behind the next distortion")
            sensed = ask(kind, received)
            hidden = closely and self._has_stronger(combination, sensed.level)
            return look_closer(kind, received, sensed) if hidden else sensed
        values, misfit = self._compare(combination, kind, received)
        return Sensed(_level(kind, values), misfit)

    def _has_stronger(self, combination: str, found: DistortionLevel) -> bool:
        """Whether a combination has a gear for a stronger last distortion than the gear that was found."""
        gears = [DistortionLevel(level.parts[-1:]) for level in self._levels if level.kind == combination]
        used = nearest(found, gears)
        return any(distance(used, gear) > 0 and (not used.parts or strength(gear) > strength(used)) for gear in gears)

    def _compare(self, combination: str, kind: Kind, received: Received) -> tuple[Values, float]:
        name = kind.name
        if kind.compare is None or kind.measure is None:
            raise SenseError(f"{name} cannot be sensed")
        references = self._references[combination, name]
        if len(references) < 2 or not any(dict(r.values) == dict(kind.pristine) for r in references):
            raise SenseError(f"{name} is sensed by comparison, but there is no calibration for it")
        try:
            features = kind.measure(received)
            if not all(map(math.isfinite, features)):
                raise SenseError(f"{name}: expected finite features, but measured {_listed(features)}")
            values, misfit = kind.compare(features, references)
            if not 0 <= misfit < math.inf:  # also NaN
                raise SenseError(f"{name}: expected a finite misfit of at least 0, but got {misfit}")
            return values, misfit
        except DataError as error:
            raise SenseError(str(error)) from error
        except GearNNError:
            raise
        except Exception as error:  # of a foreign package's kind
            raise SenseError(f"{name}: its sensor failed: {type(error).__name__}: {error}") from error


def sense(data: bytes, *, closely: bool = True) -> Sensed:
    """The distortion level of an encoded frame, from its bytes alone.

    Kinds that compare with calibration frames need a :class:`Sensor`, such as a gearbox has.

    Args:
        data: an encoded frame or clip, such as the content of a JPEG file.
        closely: decode a JPEG to find out whether it was saved before at a lower quality; without it
            only its header is read.

    Raises:
        SenseError: no installed kind can read a level from these bytes.
    """
    received = Received(data)
    if received.is_jpeg:
        sensed = ask(jpeg.KIND, received)
        return look_closer(jpeg.KIND, received, sensed) if closely else sensed
    if received.is_video:
        return ask(h264.KIND, received)
    readers = []
    for name in names():
        with suppress(SenseError, LevelError):  # a package that is broken does not hold up the others
            kind = kind_of(name)
            if kind.sense is not None:
                readers.append(name)
                return ask(kind, received)
    raise SenseError(
        f"expected bytes whose level can be sensed ({', '.join(readers)}), but got {len(data)} bytes "
        f"that start with [{data[:4].hex(' ')}]; give the level instead"
    )


def ask(kind: Kind, received: Received) -> Sensed:
    """What a kind that reads bytes senses; whatever a foreign package's kind dies of is a typed error.

    Raises:
        SenseError: it cannot sense it.
    """
    assert kind.sense is not None, "only kinds that read are asked"
    try:
        return _sensed(kind, kind.sense(received))
    except GearNNError:
        raise
    except Exception as error:
        raise SenseError(f"{kind.name}: its sensor failed: {type(error).__name__}: {error}") from error


def look_closer(kind: Kind, received: Received, sensed: Sensed) -> Sensed:
    """What a kind that reads bytes senses at a second look; the same where it has no such look.

    Raises:
        SenseError: a foreign package's kind failed.
    """
    if kind.look_closer is None:
        return sensed
    try:
        values = dict(sensed.level.parts[-1].parameters)
        return _sensed(kind, kind.look_closer(received, Reading(values, sensed.misfit, sensed.note)))
    except GearNNError:
        raise
    except Exception as error:
        raise SenseError(f"{kind.name}: its closer look failed: {type(error).__name__}: {error}") from error


def _sensed(kind: Kind, reading: Reading) -> Sensed:
    """What a kind read, as a level of the kind with a misfit that can be compared."""
    if not isinstance(reading, Reading):
        raise SenseError(f"{kind.name}: expected its sensor to give a Reading, but got {type(reading).__name__}")
    values = {p.name: reading.values.get(p.name, p.default) for p in kind.parameters}
    if None in values.values() or not reading.values.keys() <= values.keys():
        got = ", ".join(reading.values) or "none"
        raise SenseError(f"{kind.name}: expected its sensor to give values of {', '.join(values)}, but got {got}")
    if not 0 <= reading.misfit < math.inf:  # also NaN
        raise SenseError(f"{kind.name}: expected a finite misfit of at least 0, but got {reading.misfit}")
    return Sensed(_level(kind, reading.values), reading.misfit, note=reading.note)


def _level(kind: Kind, values: Values) -> DistortionLevel:
    """A level of one kind; values that are left out have their defaults."""
    given = {p.name: p.default for p in kind.parameters if p.default is not None} | dict(values)
    return DistortionLevel((LevelPart(kind.name, tuple((p.name, given[p.name]) for p in kind.parameters)),))


def _with_all_misfits(sensed: Sensed, answers: Sequence[Sensed]) -> Sensed:
    """An answer with the misfits of the other kinds that looked; of several of one kind the least."""
    others: dict[str, float] = {}
    for answer in answers:
        for kind, misfit in answer.misfits.items():
            others[kind] = min(misfit, others.get(kind, math.inf))
    return replace(sensed, misfits={**others, **sensed.misfits})


def _listed(features: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in features)


def _the_one(answers: Sequence[Sensed]) -> Sensed:
    """Of several answers the one that explains all: whose distortions are all there, and are all that any found.

    Raises:
        SenseError: none does.
    """
    found = [{part.kind for part in _distorting(answer.level)} for answer in answers]
    whole = [a for a, kinds in zip(answers, found, strict=True) if len(kinds) == len(a.level.parts)] or list(answers)
    best = max(whole, key=lambda answer: len(answer.level.parts))
    if not set().union(*found) <= {part.kind for part in best.level.parts}:
        several = " and ".join(dict.fromkeys(str(part) for a in answers for part in _distorting(a.level)))
        text = f"expected one distortion, but it looks like {several}; choose a kind, or give the level"
        raise SeveralDistortionsError(text, answers)
    return best


def _distorting(level: DistortionLevel) -> list[LevelPart]:
    return [part for part in level.parts if not DistortionLevel((part,)).is_pristine]


def _without_implied(answers: Sequence[Sensed]) -> list[Sensed]:
    """Answers without those that only read what the encoder of another one's distortion wrote."""
    implied = {text for a in answers for part in _distorting(a.level) for text in kind_of(part.kind).implies}
    levels = [DistortionLevel.parse(text) for text in implied]
    near = 1.0  # what an estimate may be off by, in the implied kind's unit
    return [a for a in answers if not any(a.level.kind == i.kind and distance(a.level, i) <= near for i in levels)]


def _references(combination: str, kind: str, calibration: Iterable[Calibration]) -> list[Reference]:
    """What the calibrated levels of a combination measured, and the undistorted frames."""
    return [
        Reference(values=c.values, mean=c.mean, covariance=c.covariance)
        for c in calibration
        if c.kind == kind
        and c.features == kind_of(kind).features
        and (not c.level.parts or c.level.kind == combination)
    ]
