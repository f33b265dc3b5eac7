"""Distortion levels q in Q (section 4.3), as values that can be written, parsed, sorted and used as names.

A level is written ``kind:name=value[,name=value]``, several distortions applied one after the other
are joined with ``+``, and the undistorted frame is the level ``pristine``. This module knows the
writing; what a kind does to a frame, and which values it allows, is in :mod:`gearnn.distortions`,
whose kinds know nothing of levels.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from gearnn.distortions.kinds import Value
from gearnn.distortions.registry import kind_of
from gearnn.errors import LevelError

PRISTINE = "pristine"

LEVEL_SETS: dict[str, tuple[str, ...]] = {
    "paper/resolution": ("resolution:{1920x960,1600x800,1280x640,1024x512,800x400,512x256}",),
    "paper/h264": ("h264:crf={15..24}",),
    "paper/jpeg": ("jpeg:quality={10..100..10}",),
    "paper/brightness": ("brightness:factor={0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9}",
                         "brightness:factor={1.0,1.1,1.2,1.3,1.4,1.5,1.6,1.7,1.8,1.9,2.0}"),
}  # fmt: skip
"""The level sets of section 4.3, as a plan may name them. Sizes are for frames of 2048x1024, Cityscapes';
the seventh resolution is the original. JPEG's Q=100 and brightness 1.0 run on the base itself."""

_MOST_LEVELS = 1000


def short(level: str) -> str:
    """A level in headings and on axes.

    >>> short("jpeg:quality=10"), short("resolution:scale=0.5+jpeg:quality=30")
    ('jpeg 10', 'resolution 0.5 + jpeg 30')
    """
    return (level if "," in level else re.sub(r":\w+=", " ", level)).replace("+", " + ")


@dataclass(frozen=True, order=True)
class LevelPart:
    """One distortion with its parameters, such as ``jpeg:quality=10``.

    Attributes:
        kind: name of the distortion, such as ``jpeg``.
        parameters: (name, value) pairs of all of the kind's parameters, in the order in which it
            declares them.
    """

    kind: str
    parameters: tuple[tuple[str, Value], ...]

    def __str__(self) -> str:
        values = kind_of(self.kind).write_parameters(dict(self.parameters))
        return f"{self.kind}:{values}" if values else self.kind


@dataclass(frozen=True, order=True)
class DistortionLevel:
    """A distortion level q: what happens to a frame between the sensor and the DNN.

    >>> level = DistortionLevel.parse("jpeg:quality=10")
    >>> str(level), level.slug, level.is_pristine
    ('jpeg:quality=10', 'jpeg-quality-10', False)
    >>> DistortionLevel.parse("jpeg:quality=100").is_pristine
    True
    >>> str(DistortionLevel.parse("resolution:1024x512+jpeg:quality=30"))
    'resolution:scale=0.5+jpeg:quality=30'
    """

    parts: tuple[LevelPart, ...] = ()

    @classmethod
    def parse(cls, text: "str | DistortionLevel", *, frame_size: tuple[int, int] | None = None) -> Self:
        """Read a level from text.

        Args:
            text: ``kind:name=value[,name=value]``, joined with ``+``; or ``pristine``. A level is
                returned as it is.
            frame_size: (width, height) of undistorted frames, to which sizes such as
                ``resolution:320x180`` relate.

        Returns:
            The level, with its values checked against the ranges of their kinds.

        Raises:
            LevelError: unknown kind or parameter, a value that is no number or lies out of range.
        """
        if isinstance(text, DistortionLevel):
            return cls(text.parts)
        stripped = text.strip()
        if stripped == PRISTINE:
            return cls()
        if "{" in stripped or stripped in LEVEL_SETS:
            raise LevelError(f"level {stripped!r}: expected one level, but this names several")
        return cls(tuple(_parse_part(part, stripped, frame_size) for part in stripped.split("+")))

    @property
    def kind(self) -> str:
        """Name of the distortion, ``jpeg``; of a combination, ``resolution+jpeg``; ``pristine`` for none."""
        return "+".join(part.kind for part in self.parts) or PRISTINE

    @property
    def slug(self) -> str:
        """The level in characters that every registry and artifact key allows: ``[a-z0-9-]``."""
        text = str(self).replace(".", "p").lower()
        return re.sub(r"[^a-z0-9]+", "-", re.sub(r"=-", "=m", text)).strip("-")

    @property
    def is_pristine(self) -> bool:
        """Whether the base itself runs at this level: no distortion, or each at its harmless end."""
        return all(kind_of(part.kind).is_pristine(dict(part.parameters)) for part in self.parts)

    def __str__(self) -> str:
        return "+".join(str(part) for part in self.parts) or PRISTINE


def expand_levels(texts: str | Iterable[str], *, frame_size: tuple[int, int] | None = None) -> list[DistortionLevel]:
    """All levels that some texts name.

    Args:
        texts: levels; names of ``LEVEL_SETS``; and products and ranges in a shell's braces.
        frame_size: as for :meth:`DistortionLevel.parse`.

    Raises:
        LevelError: a level is wrong, braces name more than 1,000, or a set does not exist.

    >>> [str(level) for level in expand_levels("resolution:{0.5,0.25}+jpeg:quality={10..30..20}")]
    ... # doctest: +NORMALIZE_WHITESPACE
    ['resolution:scale=0.5+jpeg:quality=10', 'resolution:scale=0.5+jpeg:quality=30',
     'resolution:scale=0.25+jpeg:quality=10', 'resolution:scale=0.25+jpeg:quality=30']
    """
    found: list[DistortionLevel] = []
    for text in [texts] if isinstance(texts, str) else texts:
        for entry in _level_set(text):
            found += [DistortionLevel.parse(one, frame_size=frame_size) for one in _braces(entry)]
    return found


def _braces(text: str) -> list[str]:
    if "{" not in text:
        return [text]
    if re.search(r"\.\.[-+]?0+\}", text):
        raise LevelError(f"level {text!r}: expected a range {{first..last..step}} with a step, but got a step of 0")
    import bracex  # only here, because machines that only train may lack it

    try:
        found = list(bracex.expand(text, limit=_MOST_LEVELS))
    except bracex.ExpansionLimitException:
        raise LevelError(f"level {text!r}: expected at most {_MOST_LEVELS} levels, but it names more") from None
    if any(set("{}") & set(one) for one in found):
        raise LevelError(
            f"level {text!r}: expected braces of several items, {{a,b}}, or a range of integers, {{first..last..step}}"
        )
    return found


def _level_set(text: str) -> tuple[str, ...]:
    if "/" in text and ":" not in text:
        if text not in LEVEL_SETS:
            raise LevelError(f"unknown level set {text!r}; expected one of {', '.join(LEVEL_SETS)}")
        return LEVEL_SETS[text]
    return (text,)


def _parse_part(text: str, whole: str, frame_size: tuple[int, int] | None) -> LevelPart:
    name, _, assignments = text.strip().partition(":")
    kind = kind_of(name)
    if "=" not in assignments and kind.shorthand is not None:
        short = kind.shorthand(assignments.strip(), frame_size)
        if short is not None:
            return LevelPart(kind.name, kind.read_parameters(short, whole=whole))
    given: dict[str, str] = {}
    for assignment in filter(None, assignments.split(",")):
        key, equals, value = assignment.partition("=")
        if not equals:
            raise LevelError(f"level {whole!r}: expected 'kind:name=value', such as {kind.example!r}, but got {text!r}")
        if key.strip() in given:
            raise LevelError(f"level {whole!r}: {key.strip()} is given twice")
        given[key.strip()] = value.strip()
    return LevelPart(kind.name, kind.read_parameters(given, whole=whole))
