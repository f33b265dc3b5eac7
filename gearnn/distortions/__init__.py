"""Distortions: one file a kind, each saying how to distort a frame and how to sense the level of an input."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from PIL import Image

from gearnn.distortions import h264, jpeg, video
from gearnn.distortions.calibration import Calibration, calibrate, needs_calibration
from gearnn.distortions.kinds import Kind, Parameter, Reference, Sensed, encode_png
from gearnn.distortions.nearest import apart, distance, nearest, strength, within
from gearnn.distortions.received import Received, decode
from gearnn.distortions.registry import kind_of, kinds, names
from gearnn.distortions.sensor import Sensor, ask, look_closer
from gearnn.distortions.stills import MAX_PIXELS, to_rgb
from gearnn.errors import CodecError, GearNNError, LevelError, SenseError
from gearnn.levels import DistortionLevel, LevelPart

__all__ = [
    "MAX_PIXELS",
    "Calibration",
    "Kind",
    "Parameter",
    "Received",
    "Reference",
    "Sensed",
    "Sensor",
    "apart",
    "ask",
    "calibrate",
    "codec_version",
    "decode",
    "distance",
    "distort",
    "distort_clip",
    "encode",
    "encode_clip",
    "kind_of",
    "kinds",
    "look_closer",
    "nearest",
    "needs_calibration",
    "sees_clips",
    "sense",
    "strength",
    "suffix_of",
    "within",
]


def distort(image: Image.Image, level: DistortionLevel | str) -> Image.Image:
    """The whole original frame as it arrives at this level.

    Args:
        image: RGB frame; other modes are converted.
        level: what happens to it, in the order written.

    Returns:
        An RGB frame, smaller where the level scales; at level ``pristine`` the frame itself.

    Raises:
        DataError: a codec cannot take frames of this size.
        CodecError: a codec is missing.
    """
    return distort_clip([image], level)[0]


def distort_clip(frames: Sequence[Image.Image], level: DistortionLevel | str) -> list[Image.Image]:
    """A sequence of frames as it arrives at this level: encoders of video see the sequence, others each frame.

    Args:
        frames: RGB, in order, all of one size.
        level: what happens to them, in the order written.
    """
    level = _parse(level, frames)
    arrived = list(map(to_rgb, frames))
    for part in level.parts:
        arrived = _apply(arrived, part)
    return arrived


def encode(image: Image.Image, level: DistortionLevel | str) -> bytes:
    """The bytes that a device at this level would send: the format of the last distortion, else PNG."""
    return encode_clip([image], level)


def encode_clip(frames: Sequence[Image.Image], level: DistortionLevel | str) -> bytes:
    """The bytes that a device at this level would send for the last frame of a sequence.

    For kinds that see sequences these are the bytes of the whole clip, whose last frame is the frame.
    """
    level = _parse(level, frames)
    if not level.parts:
        return encode_png(distort_clip(frames[-1:], level)[0])
    *before, last = level.parts
    kind, values = kind_of(last.kind), dict(last.parameters)
    needed = frames if sees_clips(level) else frames[-1:]
    arrived = distort_clip(needed, DistortionLevel(tuple(before)))
    if kind.encode_clip is not None:
        return kind.encode_clip(arrived, **values)
    if kind.encode is not None:
        with _telling(last):
            return kind.encode(arrived[-1], **values)
    return encode_png(_distorted(kind, arrived[-1], last))


def sees_clips(level: DistortionLevel) -> bool:
    """Whether an encoder of this level sees the frames before the one that counts."""
    return any(kind_of(part.kind).encode_clip is not None for part in level.parts)


def suffix_of(level: DistortionLevel) -> str:
    """File name suffix of what :func:`encode` gives at this level."""
    return kind_of(level.parts[-1].kind).suffix if level.parts else ".png"


def codec_version(level: DistortionLevel) -> str:
    """What decides the bytes of :func:`encode` besides frame and level."""
    return ", ".join(kind_of(part.kind).version() for part in level.parts)


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
        sensed = jpeg.sense(received)
        return jpeg.look_closer(received, sensed) if closely else sensed
    if received.is_video:
        return h264.sense(received)
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


def _parse(level: DistortionLevel | str, frames: Sequence[Image.Image]) -> DistortionLevel:
    """The level, its sizes taken relative to the frames."""
    other = next((frame for frame in frames if not isinstance(frame, Image.Image)), None)
    if other is not None:
        raise TypeError(f"expected a PIL.Image.Image, but got {type(other).__name__}; Image.fromarray makes one")
    return DistortionLevel.parse(level, frame_size=frames[0].size)


def _apply(frames: list[Image.Image], part: LevelPart) -> list[Image.Image]:
    kind, values = kind_of(part.kind), dict(part.parameters)
    if kind.encode_clip is not None and len(frames) > 1:
        return video.decode_clip(kind.encode_clip(frames, **values))
    return [_distorted(kind, frame, part) for frame in frames]


def _distorted(kind: Kind, frame: Image.Image, part: LevelPart) -> Image.Image:
    with _telling(part):
        distorted = kind.distort(frame, **dict(part.parameters))
        if not isinstance(distorted, Image.Image) or distorted.mode != "RGB":
            got = getattr(distorted, "mode", type(distorted).__name__)
            raise TypeError(f"expected it to give a PIL.Image.Image of mode RGB, but got {got}")
    return distorted


@contextmanager
def _telling(part: LevelPart) -> Iterator[None]:
    """Whatever the code of a kind from another package dies of, as one line that names it."""
    try:
        yield
    except GearNNError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise CodecError(f"level {part}: its kind {part.kind} failed: {type(error).__name__}: {reason}") from error
