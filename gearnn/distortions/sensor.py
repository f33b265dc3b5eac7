"""Sensing: which distortion level an input has, read from its bytes or by comparison with calibration frames."""

from collections.abc import Iterable, Sequence

from gearnn.distortions.calibration import Calibration
from gearnn.distortions.kinds import Kind, Reference, Sensed, Values
from gearnn.distortions.nearest import distance, nearest
from gearnn.distortions.received import Received
from gearnn.distortions.registry import kind_of
from gearnn.errors import DataError, GearNNError, SenseError, SeveralDistortionsError
from gearnn.levels import DistortionLevel, LevelPart


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

    def __call__(self, received: Received) -> Sensed:
        """The level of one input.

        Raises:
            SenseError: no kind can tell; or several kinds find a distortion, and no supported level
                combines them.
        """
        answers, reasons = [], []
        for combination in self._kinds:
            try:
                answers.append(self._sense(combination, received))
            except SenseError as error:
                reasons.append(str(error))
        if not answers:
            raise SenseError(f"{'; '.join(dict.fromkeys(reasons)) or 'no levels to look for'}; tell the level instead")
        distorted = [a for a in answers if _distorting(a.level) and nearest(a.level, self._levels).parts]
        distorted = _without_implied(distorted)
        return _the_one(distorted) if distorted else answers[0]

    def _sense(self, combination: str, received: Received) -> Sensed:
        kinds = self._kinds[combination]
        parts: list[LevelPart] = []
        misfit = 0.0
        for index, name in enumerate(kinds):
            values, part_misfit = self._sense_part(combination, name, received, is_last=index == len(kinds) - 1)
            names = [parameter.name for parameter in kind_of(name).parameters]
            parts.append(LevelPart(name, tuple((parameter, values[parameter]) for parameter in names)))
            misfit += part_misfit
        return Sensed(DistortionLevel(tuple(parts)), misfit)

    def _sense_part(self, combination: str, name: str, received: Received, *, is_last: bool) -> tuple[Values, float]:
        kind = kind_of(name)
        if kind.sense is not None:
            if not is_last:
                raise SenseError(f"{name} in {combination}: its bytes are gone behind the next distortion")
            sensed = ask(kind, received)
            return dict(sensed.level.parts[0].parameters), sensed.misfit
        if kind.compare is None or kind.measure is None:
            raise SenseError(f"{name} cannot be sensed")
        references = self._references[combination, name]
        if len(references) < 2 or not any(dict(r.values) == dict(kind.pristine) for r in references):
            raise SenseError(f"{name} is sensed by comparison, but there is no calibration for it")
        try:
            return kind.compare(kind.measure(received), references)
        except DataError as error:
            raise SenseError(str(error)) from error
        except GearNNError:
            raise
        except Exception as error:  # of a foreign package's kind
            raise SenseError(f"{name}: its sensor failed: {type(error).__name__}: {error}") from error


def ask(kind: Kind, received: Received) -> Sensed:
    """What a kind that reads bytes senses; whatever a foreign package's kind dies of is a typed error.

    Raises:
        SenseError: it cannot tell.
    """
    assert kind.sense is not None, "only kinds that read are asked"
    try:
        return kind.sense(received)
    except GearNNError:
        raise
    except Exception as error:
        raise SenseError(f"{kind.name}: its sensor failed: {type(error).__name__}: {error}") from error


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
        text = f"expected one distortion, but it looks like {several}; choose a kind, or tell the level"
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
