"""Distortions: one file a kind, each saying how to distort a frame and how to sense the level of an input."""

import io

from PIL import Image

from gearnn.distortions import brightness, jpeg
from gearnn.distortions.kinds import Kind, Parameter, Sensed, encode_png
from gearnn.errors import LevelError, SenseError
from gearnn.levels import DistortionLevel

__all__ = ["Kind", "Parameter", "Sensed", "decode", "distance", "distort", "encode", "kind_of", "sense", "suffix_of"]

_KINDS = {kind.name: kind for kind in (jpeg.KIND, brightness.KIND)}


def kind_of(name: str) -> Kind:
    """The kind of this name.

    Raises:
        LevelError: there is no such kind.
    """
    if name not in _KINDS:
        raise LevelError(f"unknown distortion {name!r}; expected one of {', '.join(sorted(_KINDS))}")
    return _KINDS[name]


def distort(image: Image.Image, level: DistortionLevel | str) -> Image.Image:
    """The whole original frame as it arrives at this level.

    Args:
        image: RGB frame; other modes are converted.
        level: what happens to it, in the order written.

    Returns:
        An RGB frame; at level ``pristine`` the frame itself.
    """
    frame = image if image.mode == "RGB" else image.convert("RGB")
    for part in DistortionLevel.parse(level).parts:
        frame = kind_of(part.kind).distort(frame, **dict(part.parameters))
    return frame


def encode(image: Image.Image, level: DistortionLevel | str) -> bytes:
    """The bytes that a device at this level would send: the format of the last distortion, else PNG."""
    level = DistortionLevel.parse(level)
    *before, last = level.parts or (None,)
    frame = distort(image, DistortionLevel(tuple(part for part in before if part is not None)))
    if last is None:
        return encode_png(frame)
    kind = kind_of(last.kind)
    if kind.encode is None:
        return encode_png(kind.distort(frame, **dict(last.parameters)))
    return kind.encode(frame, **dict(last.parameters))


def decode(data: bytes) -> Image.Image:
    """An encoded frame as RGB; what :func:`encode` wrote comes back as :func:`distort` gives it."""
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")


def suffix_of(level: DistortionLevel) -> str:
    """File name suffix of what :func:`encode` gives at this level."""
    return kind_of(level.parts[-1].kind).suffix if level.parts else ".png"


def sense(data: bytes) -> Sensed:
    """The distortion level of an encoded frame, from its bytes alone.

    Args:
        data: an encoded frame, such as the content of a JPEG file.

    Raises:
        SenseError: no installed kind can tell a level from these bytes.
    """
    if data[:2] == b"\xff\xd8":
        return jpeg.sense(data)
    able = ", ".join(sorted(kind.name for kind in _KINDS.values() if kind.sense is not None))
    raise SenseError(
        f"expected bytes whose level can be sensed ({able}), but got {len(data)} bytes "
        f"that start with [{data[:4].hex(' ')}]; tell the level instead"
    )


def distance(a: DistortionLevel, b: DistortionLevel) -> float:
    """How far apart two levels are, summed over their distortions, each in its own unit.

    The level ``pristine`` stands at the pristine end of every kind. Levels of different kinds are
    infinitely far apart.
    """
    if a.kind == b.kind or not a.parts or not b.parts:
        kinds = [part.kind for part in (a.parts or b.parts)]
        pairs = zip(kinds, _values(a, kinds), _values(b, kinds), strict=True)
        return sum((kind_of(kind).distance(x, y) for kind, x, y in pairs), 0.0)
    return float("inf")


def strength(level: DistortionLevel) -> float:
    """How strongly a level distorts; comparable between levels of one kind only."""
    return sum((kind_of(part.kind).strength(dict(part.parameters)) for part in level.parts), 0.0)


def _values(level: DistortionLevel, kinds: list[str]) -> list[dict[str, int | float]]:
    if level.parts:
        return [dict(part.parameters) for part in level.parts]
    return [dict(kind_of(kind).pristine) for kind in kinds]
