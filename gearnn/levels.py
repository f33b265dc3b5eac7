"""Distortion levels q in Q (section 4.3), as values that can be written, parsed, sorted and used as names.

A level is written ``kind:name=value[,name=value]``, several distortions applied one after the other
are joined with ``+``, and the undistorted frame is the level ``pristine``. This module knows the
writing; what a kind does to a frame, and which values it allows, is in :mod:`gearnn.distortions`.
"""

import re
from dataclasses import dataclass
from typing import Self

from gearnn.errors import LevelError

PRISTINE = "pristine"

Number = int | float


@dataclass(frozen=True, order=True)
class LevelPart:
    """One distortion with its parameters, such as ``jpeg:quality=10``.

    Attributes:
        kind: name of the distortion, such as ``jpeg``.
        parameters: (name, value) pairs in the order in which the kind declares them.
    """

    kind: str
    parameters: tuple[tuple[str, Number], ...]

    def __str__(self) -> str:
        values = ",".join(f"{name}={value:g}" for name, value in self.parameters)
        return f"{self.kind}:{values}" if values else self.kind


@dataclass(frozen=True, order=True)
class DistortionLevel:
    """A distortion level q: what happens to a frame between the sensor and the DNN.

    >>> level = DistortionLevel.parse("jpeg:quality=10")
    >>> str(level), level.slug, level.is_pristine
    ('jpeg:quality=10', 'jpeg-quality-10', False)
    >>> DistortionLevel.parse("jpeg:quality=100").is_pristine
    True
    """

    parts: tuple[LevelPart, ...] = ()

    @classmethod
    def parse(cls, text: "str | DistortionLevel") -> Self:
        """Read a level from text.

        Args:
            text: ``kind:name=value[,name=value]``, joined with ``+``; or ``pristine``. A level is
                returned as it is.

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
        return cls(tuple(_parse_part(part, whole=stripped) for part in stripped.split("+")))

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
        from gearnn.distortions import kind_of

        return all(dict(part.parameters) == kind_of(part.kind).pristine for part in self.parts)

    def __str__(self) -> str:
        return "+".join(str(part) for part in self.parts) or PRISTINE


def _parse_part(text: str, *, whole: str) -> LevelPart:
    from gearnn.distortions import kind_of

    name, _, assignments = text.strip().partition(":")
    kind = kind_of(name)
    given: dict[str, str] = {}
    for assignment in filter(None, assignments.split(",")):
        key, equals, value = assignment.partition("=")
        if not equals:
            raise LevelError(f"level {whole!r}: expected 'kind:name=value', such as {kind.example!r}, but got {text!r}")
        if key.strip() in given:
            raise LevelError(f"level {whole!r}: {key.strip()} is given twice")
        given[key.strip()] = value.strip()
    return LevelPart(kind.name, kind.read_parameters(given, whole=whole))
