"""What a kind of distortion must bring: how to distort, which values it takes, how to sense its level."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from PIL import Image

from gearnn.errors import LevelError
from gearnn.levels import DistortionLevel, Number


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of a kind.

    Attributes:
        name: as written in a level.
        type: ``int`` or ``float``.
        low: smallest permitted value.
        high: largest permitted value.
        unit: what the number counts.
    """

    name: str
    type: type[int] | type[float]
    low: Number
    high: Number
    unit: str

    def read(self, text: str, *, whole: str) -> Number:
        """Turn the text of a value into a number inside the permitted range."""
        permitted = f"{'an integer' if self.type is int else 'a number'} from {self.low} to {self.high}"
        try:
            value = self.type(text)
        except ValueError:
            raise LevelError(f"level {whole!r}: expected {self.name} to be {permitted}, but got {text!r}") from None
        if not self.low <= value <= self.high:  # also refuses NaN
            raise LevelError(f"level {whole!r}: expected {self.name} to be {permitted}, but got {text}")
        return value


@dataclass(frozen=True)
class Sensed:
    """The answer of a sensor.

    Attributes:
        level: the level of this kind that fits the input best.
        misfit: distance between the input and that level, 0.0 for an exact fit; its unit is the kind's.
    """

    level: DistortionLevel
    misfit: float


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One family of distortions.

    Attributes:
        name: as written in a level.
        parameters: what a level of this kind must give.
        pristine: the values at which the base itself runs, without an adaptor.
        distort: (RGB frame, **parameters) -> RGB frame of the receiving side.
        encode: (RGB frame, **parameters) -> the bytes that a device would send, or None where the
            kind defines no file format; then frames are stored as PNG.
        suffix: file name suffix of those bytes.
        sense: bytes -> level, or None where the bytes do not tell and the level must be told.
        distance: how far apart two levels of this kind are; ties go to the stronger distortion.
        strength: larger is more distorted; breaks ties between equally near levels.
    """

    name: str
    parameters: tuple[Parameter, ...]
    pristine: Mapping[str, Number]
    distort: Callable[..., Image.Image]
    distance: Callable[[Mapping[str, Number], Mapping[str, Number]], float]
    strength: Callable[[Mapping[str, Number]], float]
    encode: Callable[..., bytes] | None = None
    suffix: str = ".png"
    sense: Callable[[bytes], Sensed] | None = None

    @property
    def example(self) -> str:
        """A level of this kind, for messages."""
        return f"{self.name}:" + ",".join(f"{p.name}={p.low}" for p in self.parameters)

    def read_parameters(self, given: Mapping[str, str], *, whole: str) -> tuple[tuple[str, Number], ...]:
        """Check names and ranges of a level's values; ``whole`` is the level's text, for messages."""
        names = [parameter.name for parameter in self.parameters]
        for name in given:
            if name not in names:
                raise LevelError(f"level {whole!r}: {self.name} has no parameter {name!r}; it takes {', '.join(names)}")
        for name in names:
            if name not in given:
                raise LevelError(f"level {whole!r}: expected a value for {name}, such as {self.example!r}")
        return tuple((p.name, p.read(given[p.name], whole=whole)) for p in self.parameters)


def encode_png(image: Image.Image) -> bytes:
    """A frame as PNG bytes: exact, and quick rather than small (compression level 1)."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
