"""What a kind of distortion must bring: how to distort, which values it takes, how to sense its level.

A kind knows values, not levels: :mod:`gearnn.levels` stands above kinds, and sensors stand above levels.
It is one :class:`Kind` object. The library's own are in this package; others come from installed
packages through the entry-point group ``gearnn.distortions`` (see ``docs/distortions.md``).
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from gearnn.errors import LevelError

if TYPE_CHECKING:
    from gearnn.distortions.received import Received

Value = int | float | str
Values = Mapping[str, Value]
Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of a kind: a number in a range, or one of some words.

    Attributes:
        name: as written in a level.
        type: ``int`` or ``float``; ``str`` for words.
        low: smallest permitted number.
        high: largest permitted number.
        choices: permitted words.
        unit: what the number counts, or what the word names.
        default: the value that a level means when it does not give one, and that is left out when it
            is written; None where every level must give one.
    """

    name: str
    type: type[int] | type[float] | type[str]
    unit: str
    low: int | float = 0
    high: int | float = 0
    choices: tuple[str, ...] = ()
    default: Value | None = None

    def read(self, text: str, *, whole: str) -> Value:
        """Turn the text of a value into a number inside the permitted range, or a permitted word."""
        try:
            value = self.type(text)
        except ValueError:
            raise LevelError(
                f"level {whole!r}: expected {self.name} to be {self.permitted}, but got {text!r}"
            ) from None
        if not self._permits(value):
            raise LevelError(f"level {whole!r}: expected {self.name} to be {self.permitted}, but got {text}")
        return value

    @property
    def permitted(self) -> str:
        """The permitted values in words."""
        if self.type is str:
            return f"one of {', '.join(self.choices)}"
        return f"{'an integer' if self.type is int else 'a number'} from {self.low} to {self.high}"

    @property
    def example(self) -> Value:
        """A permitted value."""
        return self.choices[0] if self.type is str else self.low

    def _permits(self, value: Value) -> bool:
        if isinstance(value, str):
            return value in self.choices
        return self.low <= value <= self.high  # also refuses NaN


@dataclass(frozen=True)
class Reading:
    """What a kind reads from an input.

    Attributes:
        values: of the kind's parameters, at the level that fits the input best; defaults may be left out.
        misfit: distance between the input and that level, 0.0 for an exact fit, in the kind's unit.
        note: what else was found out about the input, such as that a JPEG was saved twice.
    """

    values: Values
    misfit: float
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a kind measures on calibration frames of one level; features are in the kind's units.

    Attributes:
        values: the kind's values at that level.
        mean: mean of the features over frames.
        covariance: their covariance, row by row.
    """

    values: Values
    mean: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One family of distortions.

    Levels of a kind are sensed in one of three ways. It *reads* them from the bytes (``sense``); or it
    *compares* the frame with calibration frames (``measure`` and ``compare``); or, with neither, they
    must be given.

    Attributes:
        name: as written in a level.
        parameters: the values of a level, in the order in which they are written.
        pristine: where the undistorted frame stands among the levels.
        pristine_is_a_level: whether the base itself runs at exactly those values; False where every
            level of the kind is distorted and only the untouched frame is pristine.
        distort: (RGB frame, **values) -> RGB frame of the receiving side.
        encode: (RGB frame, **values) -> the bytes that a device would send, or None where the kind
            defines no file format; then frames are stored as PNG.
        encode_clip: (RGB frames in order, **values) -> bytes of the whole clip, for kinds whose
            encoder sees a sequence; None for kinds that treat every frame by itself.
        suffix: file name suffix of encoded bytes.
        implies: levels of other kinds that the encoder of this kind leaves in the bytes; finding them
            there is no distortion of its own.
        sense: what was received -> values, read from the bytes.
        look_closer: (what was received, what ``sense`` says of it) -> the same or stronger values, from
            a look that costs more, such as at pixels; asked only where the answer may change the gear.
        features: names of what ``measure`` gives; calibrations made for other names are refused.
        measure: what was received -> features, numbers in which levels differ.
        compare: (features, references of the calibrated levels) -> (values, misfit).
        max_misfit: the largest misfit of inputs that belong to the kind's levels; what is beyond is off
            the map, unless a policy says otherwise.
        distance: how far apart two levels of this kind are; ties go to the stronger distortion.
        strength: larger is more distorted; breaks ties between equally near levels.
        shorthand: (text, size of the undistorted frame or None) -> values, for texts without ``name=``;
            answers None for a text that is none of its own.
        version: what decides the bytes besides frame and values, such as the codec's version.
    """

    name: str
    parameters: tuple[Parameter, ...]
    pristine: Values
    distort: Callable[..., Image.Image]
    distance: Callable[[Values, Values], float]
    strength: Callable[[Values], float]
    pristine_is_a_level: bool = True
    encode: Callable[..., bytes] | None = None
    encode_clip: Callable[..., bytes] | None = None
    suffix: str = ".png"
    implies: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    sense: "Callable[[Received], Reading] | None" = None
    look_closer: "Callable[[Received, Reading], Reading] | None" = None
    measure: "Callable[[Received], tuple[float, ...]] | None" = None
    compare: Callable[[Sequence[float], Sequence[Reference]], tuple[Values, float]] | None = None
    max_misfit: float = math.inf
    shorthand: Callable[[str, Size | None], Mapping[str, str] | None] | None = None
    version: Callable[[], str] = str

    def __post_init__(self) -> None:
        if (self.compare is None) != (self.measure is None) or (self.measure is None) != (not self.features):
            raise ValueError(
                f"kind {self.name!r}: expected `measure`, `compare` and `features` together, or none of them"
            )

    @property
    def example(self) -> str:
        """A level of this kind, for messages."""
        return f"{self.name}:" + ",".join(f"{p.name}={p.example}" for p in self.parameters if p.default is None)

    @property
    def sensed_from(self) -> str:
        """How the level of an input is found, in words."""
        if self.sense is not None:
            return "read from the bytes"
        return "must be given" if self.measure is None else "compared with calibration frames"

    @property
    def span(self) -> float:
        """Distance from the undistorted frame to the farthest level, in the kind's unit."""
        given = [parameter for parameter in self.parameters if parameter.default is None]
        values = {parameter.name: parameter.default or parameter.example for parameter in self.parameters}
        ends = [{**values, **{p.name: (p.low, p.high)[end] for p in given if p.type is not str}} for end in (0, 1)]
        return max(self.distance({**values, **self.pristine}, end) for end in ends)

    def is_pristine(self, values: Values) -> bool:
        """Whether the base itself runs at these values."""
        return self.pristine_is_a_level and dict(values) == dict(self.pristine)

    def read_parameters(self, given: Mapping[str, str], *, whole: str) -> tuple[tuple[str, Value], ...]:
        """Check names and ranges of a level's values; ``whole`` is the level's text, for messages.

        Returns:
            (name, value) pairs of all parameters, defaults included.
        """
        names = [parameter.name for parameter in self.parameters]
        for name in given:
            if name not in names:
                raise LevelError(f"level {whole!r}: {self.name} has no parameter {name!r}; it takes {', '.join(names)}")
        return tuple((p.name, self._value(p, given, whole)) for p in self.parameters)

    def write_parameters(self, values: Values) -> str:
        """The values as a level is written: ``name=value[,name=value]``, defaults left out."""
        defaults = {parameter.name: parameter.default for parameter in self.parameters}
        return ",".join(f"{name}={written(value)}" for name, value in values.items() if value != defaults.get(name))

    def _value(self, parameter: Parameter, given: Mapping[str, str], whole: str) -> Value:
        if parameter.name in given:
            return parameter.read(given[parameter.name], whole=whole)
        if parameter.default is None:
            raise LevelError(f"level {whole!r}: expected a value for {parameter.name}, such as {self.example!r}")
        return parameter.default


def written(value: Value) -> str:
    """A value as text; equal values give equal texts, different ones different texts.

    >>> written(2.0), written(0.390625), written("medium")
    ('2', '0.390625', 'medium')
    """
    return str(value).removesuffix(".0")


def encode_png(image: Image.Image) -> bytes:
    """A frame as PNG bytes: exact, and quick rather than small (compression level 1)."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
