"""Clips read by PyAV (FFmpeg's libraries), which is imported here only; :mod:`gearnn.distortions.x264` writes them.

Frames are turned as their display matrix says, which phones write and H.264 may carry (SEI). They hold all coded
pixels, as they are: pixels that are not square, interlaced fields and high dynamic range are logged once.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from gearnn.distortions.parameter_sets import is_turned, size_of_stream
from gearnn.distortions.showing import SIDEWAYS, Turning, note_oddities, picture_of
from gearnn.distortions.stills import MAX_PIXELS, PICTURE_BRANDS, picture_of_boxes
from gearnn.errors import CodecError, DataError, InputError

FRAME_RATE = 25
"""Of elementary streams, which state none."""

_MOST_CLIP_PIXELS = 1 << 31  # in all frames of one clip, a thousand of 2 megapixels: a few seconds of decoding
_KEY_PICTURE = 1  # AV_PICTURE_TYPE_I
_CONTAINERS = {b"ftyp": "mov", b"\x1aE\xdf\xa3": "matroska"}
_PROTECTED = (b"encv", b"sinf", b"schm")  # boxes of a sample entry, ISO/IEC 14496-12, 8.12


@dataclass(frozen=True, kw_only=True)
class Quantisers:
    """Luma quantisers of the macroblocks of one picture, 0 to 51.

    Attributes:
        inter: whether other pictures predict it (P and B).
        mean: over the macroblocks.
        flat: whether all are equal, as without adaptive quantisation.
        initial: what the picture parameter set gives, from which slices count.
    """

    inter: bool
    mean: float
    flat: bool
    initial: int


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """A decoded clip.

    Attributes:
        image: its last frame, RGB.
        codec: name of the codec, ``h264``.
        quantisers: of every frame, for H.264; empty for other codecs.
    """

    image: Image.Image
    codec: str
    quantisers: tuple[Quantisers, ...]


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Every frame of a clip.

    Attributes:
        frames: RGB, in the order of showing.
        times: seconds from the first frame.
        codec: name of the codec, ``h264``.
        quantisers: of every frame, for H.264; empty for other codecs.
    """

    frames: tuple[Image.Image, ...]
    times: tuple[float, ...]
    codec: str
    quantisers: tuple[Quantisers, ...]


def is_video(data: bytes) -> bool:
    """Whether bytes start as an H.264 elementary stream, MP4, Matroska or an MPEG transport stream do."""
    return _is_elementary(data) or (_container(data) is not None and not picture_of_boxes(data))


def decode_clip(data: bytes) -> list[Image.Image]:
    """Every frame of a clip, RGB, in order; errors as for :func:`decode_video`."""
    turning = Turning()
    return [picture_of(frame, turning(frame)) for _, frame in _frames(data, {})]


def decode_video(data: bytes, max_pixels: int) -> Decoded:
    """The last frame of a clip, and the quantisers of all.

    Args:
        data: an elementary stream of H.264; or MP4, Matroska or MPEG-TS with any codec of FFmpeg's.
        max_pixels: larger frames are refused before memory is taken for them.

    Raises:
        DataError: no video, a damaged one, one without frames, or with too large frames.
        CodecError: PyAV is missing.
    """
    last, turn, codec, pixels = None, None, "", 0
    turning = Turning()
    quantisers: list[Quantisers] = []
    for codec, frame in _frames(data, {"export_side_data": "venc_params", "max_pixels": str(max_pixels)}):
        if codec == "h264":
            quantisers += [_quantisers(frame, d) for d in frame.side_data if d.type.name == "VIDEO_ENC_PARAMS"]
        last, turn = frame, turning(frame)
        pixels += frame.width * frame.height
        if pixels > _MOST_CLIP_PIXELS:
            raise DataError(f"expected a clip of at most {_MOST_CLIP_PIXELS:,} pixels in all, but got more")
    if last is None:
        raise DataError(f"expected a video, but {len(data)} bytes that start with [{data[:4].hex(' ')}] hold no frame")
    if last.is_corrupt:
        raise DataError(f"expected a whole video, but the last frame of these {len(data)} bytes is damaged or cut off")
    with _telling(data):
        return Decoded(image=picture_of(last, turn), codec=codec, quantisers=tuple(quantisers))


def decode_all(data: bytes, max_pixels: int) -> Clip:
    """Every frame of a clip, with times; arguments and errors as for :func:`decode_video`.

    Raises:
        DataError: also where any frame is damaged or cut off.
    """
    gathered, turning = Gatherer(), Turning()
    for codec, frame in _frames(data, {"export_side_data": "venc_params", "max_pixels": str(max_pixels)}):
        gathered.add(codec, frame, turning(frame))
    with _telling(data):
        return gathered.clip()


class Gatherer:
    """Collects decoded frames, PyAV's, of one clip."""

    def __init__(self) -> None:
        self._frames: list[Any] = []
        self._turns: list[Image.Transpose | None] = []
        self._codec, self._pixels = "", 0

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, codec: str, frame: Any, turn: Image.Transpose | None) -> None:
        """Keep one frame, and how it is to be turned.

        Raises:
            DataError: it is damaged, or the clip has too many pixels in all.
        """
        if frame.is_corrupt:
            raise DataError(f"expected a whole video, but frame {len(self)} is damaged or cut off")
        self._codec = codec
        self._pixels += frame.width * frame.height
        if self._pixels > _MOST_CLIP_PIXELS:
            raise DataError(f"expected a clip of at most {_MOST_CLIP_PIXELS:,} pixels in all, but got more")
        self._frames.append(frame)
        self._turns.append(turn)

    def clip(self) -> Clip:
        """What was collected.

        Raises:
            DataError: nothing was.
        """
        if not self._frames:
            raise DataError("expected a video, but it holds no frame")
        quantisers = [
            _quantisers(frame, d)
            for frame in self._frames
            for d in (frame.side_data if self._codec == "h264" else ())
            if d.type.name == "VIDEO_ENC_PARAMS"
        ]
        start = self._frames[0].time
        return Clip(
            frames=tuple(map(picture_of, self._frames, self._turns)),
            times=tuple(
                i / FRAME_RATE if frame.time is None or start is None else frame.time - start
                for i, frame in enumerate(self._frames)
            ),
            codec=self._codec,
            quantisers=tuple(quantisers),
        )


def size_of(data: bytes) -> tuple[int, int]:
    """(width, height) of a clip's upright frames, from the stream's parameters where these say it.

    The first frame of containers, and of streams that say how to turn them, is decoded.

    Raises:
        DataError: no video, or one that does not state its size.
        CodecError: PyAV is missing, which containers need.
    """
    if _container(data) is None and not is_turned(data):
        return size_of_stream(data)
    for _, frame in _frames(data, {"max_pixels": str(MAX_PIXELS)}):
        return (frame.height, frame.width) if Turning()(frame) in SIDEWAYS else (frame.width, frame.height)
    raise DataError(f"expected a video that states its size, but these {len(data)} bytes do not")


def shown_stream(file: Any) -> Any:
    """The first video stream of an open container that is no cover picture; None where there is none.

    Raises:
        DataError: the container is a picture, whose tiles FFmpeg takes for videos.
    """
    kinds, brand = av_library().stream.Disposition, file.metadata.get("major_brand", "")
    streams = [stream for stream in file.streams.video if stream.codec_context is not None]
    if brand.encode() in PICTURE_BRANDS or any(stream.disposition & kinds.dependent for stream in streams):
        raise DataError(f"expected a video, but got a picture in HEIF or AVIF ({brand}); convert it to JPEG or PNG")
    return next((stream for stream in streams if not stream.disposition & kinds.attached_pic), None)


def _frames(data: bytes, options: dict[str, str]) -> Iterator[tuple[str, Any]]:
    """(name of the codec, frame) of every frame, in the order of showing."""
    av = av_library()
    container = _container(data)
    if all(kind in data for kind in _PROTECTED):
        raise DataError(f"expected a video that can be decoded, but these {len(data)} bytes are encrypted (protected)")
    with _telling(data):
        if container is None:
            yield from _elementary(av, data, options)
        else:
            yield from _contained(av, data, container, options)


@contextmanager
def _telling(data: bytes) -> Iterator[None]:
    """FFmpeg's errors, and those of PyAV on streams that it does not expect, as one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise DataError(f"expected a video that can be decoded, but these {len(data)} bytes gave: {reason}") from error


def _elementary(av: ModuleType, data: bytes, options: dict[str, str]) -> Iterator[tuple[str, Any]]:
    codec = av.CodecContext.create("h264", "r")
    codec.thread_count, codec.options = 1, options
    for packet in [*codec.parse(data), *codec.parse(b""), None]:
        for frame in codec.decode(packet):
            note_oddities(frame, codec.sample_aspect_ratio)
            yield "h264", frame


def _contained(av: ModuleType, data: bytes, container: str, options: dict[str, str]) -> Iterator[tuple[str, Any]]:
    # The options are for finding out about streams, which decodes frames, and for decoding the chosen one.
    with av.open(io.BytesIO(data), format=container, options=options) as file:
        stream = shown_stream(file)
        if stream is None:
            raise ValueError("no video stream of a known codec")
        stream.codec_context.options = options
        stream.codec_context.thread_count = 1
        for frame in file.decode(stream):
            note_oddities(frame, stream.sample_aspect_ratio)
            yield stream.codec_context.name, frame


def _quantisers(frame: Any, parameters: Any) -> Quantisers:
    """From AVVideoEncParams; a macroblock's difference to the initial quantiser is an int32 at byte 16."""
    blocks = np.frombuffer(parameters, np.uint8)[parameters.blocks_offset :]
    blocks = blocks[: parameters.nb_blocks * parameters.block_size].reshape(-1, parameters.block_size)
    difference = np.ascontiguousarray(blocks[:, 16:20]).view(np.int32)
    return Quantisers(
        inter=frame.pict_type != _KEY_PICTURE,
        mean=parameters.qp + float(difference.mean()),
        flat=bool(difference.min() == difference.max()),
        initial=parameters.qp,
    )


def _is_elementary(data: bytes) -> bool:
    start = 4 if data[:4] == b"\0\0\0\1" else 3 if data[:3] == b"\0\0\1" else len(data)
    return len(data) > start and 0 < data[start] & 0x9F < 0x80  # an ICO has 0 for the type of a unit


def _container(data: bytes) -> str | None:
    if data[:1] == b"G" and data[188:189] in (b"G", b""):
        return "mpegts" if len(data) >= 188 else None
    return next((name for magic, name in _CONTAINERS.items() if magic in (data[:4], data[4:8])), None)


@cache
def av_library() -> ModuleType:
    """PyAV.

    Raises:
        CodecError: it is missing.
    """
    try:
        import av
    except ImportError as error:
        raise CodecError(
            f"video: expected PyAV, but it cannot be imported ({error}); `pip install av` brings it"
        ) from error
    av.logging.set_level(None)  # what is damaged in a stream is reported by errors, not on the terminal
    return av
