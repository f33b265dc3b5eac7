"""H.264 quality (section 4.3): constant rate factor 0 to 51, the paper's 15 to 24, encoded by libx264.

A still frame is encoded as a clip of one frame; a dataset that has the frames before a labelled one
gives the whole sequence to the encoder. GOP length, preset and chroma format belong to the level; their
defaults are x264's.

A stream's CRF is read, never guessed from pixels. x264 writes it into its SEI. Where that was stripped,
or another encoder was at work, the quantisers that the slices carry say it: CRF is x264's target for
them, which its adaptive quantisation and macroblock tree then shift (:func:`from_quantisers`).
"""

import math
import re
from collections.abc import Sequence

from PIL import Image

from gearnn.distortions import video, x264
from gearnn.distortions.kinds import Kind, Parameter, Reading, Values
from gearnn.distortions.received import Received
from gearnn.errors import DataError, SenseError

LOW, HIGH = 0.0, 51.0
_SEI = re.compile(rb"\xdcE\xe9\xbd\xe6\xd9H\xb7\x96,\xd8 \xd9#\xee\xefx264 - core [^\0]{1,4000}? crf=([0-9.]{1,8})")
"""x264's user data: its UUID, then version and settings as text; a stream without a CRF does not match."""

_KEY_SHIFT, _INTER_SHIFT, _FLAT_SHIFT = 5.4, 3.6, -3.0
_PACKET, _MOST_PACKETS = 188, 1000  # of MPEG-TS; the settings stand before the first picture
_SNAP, _SNAP_INTER = 2.5, 3.5
_ROUNDING = 1e-9


def encode_clip(frames: Sequence[Image.Image], *, crf: float, gop: int, preset: str, pixels: str) -> bytes:
    """Compress a sequence as a streaming device would; see :func:`gearnn.distortions.x264.encode_h264`."""
    return x264.encode_h264(frames, crf=crf, gop=gop, preset=preset, pixels=pixels)


def encode(image: Image.Image, *, crf: float, gop: int, preset: str, pixels: str) -> bytes:
    """Compress a still frame as a clip of one frame."""
    return encode_clip([image], crf=crf, gop=gop, preset=preset, pixels=pixels)


def distort(image: Image.Image, *, crf: float, gop: int, preset: str, pixels: str) -> Image.Image:
    """The frame as the receiver of its clip sees it; RGB in, RGB of the same size out."""
    return video.decode_clip(encode(image, crf=crf, gop=gop, preset=preset, pixels=pixels))[-1]


def sense(received: Received) -> Reading:
    """Read the CRF of an H.264 stream.

    Returns:
        The CRF. ``misfit`` is 0.0 where x264's SEI states the CRF; else the difference, in CRF,
        between the estimate from the quantisers and that CRF.

    Raises:
        SenseError: no H.264, or a stream that is damaged or carries no quantisers.
    """
    if not received.is_video:
        start = received.data[:4].hex(" ")
        raise SenseError(f"expected an H.264 stream, but got {len(received.data)} bytes that start with [{start}]")
    stated = _SEI.search(_without_packets(received.data))
    if stated is not None:
        try:
            return Reading({"crf": min(max(float(stated[1]), LOW), HIGH)}, 0.0)
        except ValueError:
            pass  # damaged digits; the slices still say it
    try:
        decoded = received.video
    except DataError as error:
        raise SenseError(str(error)) from error
    if not decoded.quantisers:
        raise SenseError(f"expected an H.264 stream that carries quantisers, but got one of {decoded.codec}")
    crf, misfit = from_quantisers(decoded)
    return Reading({"crf": crf}, misfit, "estimated from the quantisers, because the stream does not state its CRF")


def x264_settings(data: bytes) -> bytes:
    """x264's user data in a stream, which states its CRF; empty where there is none."""
    stated = _SEI.search(_without_packets(data))
    return b"" if stated is None else stated[0]


def _without_packets(data: bytes) -> bytes:
    """The payload of an MPEG transport stream's first packets, whose headers cut x264's text; else the bytes."""
    if data[:1] != b"G" or data[_PACKET : _PACKET + 1] not in (b"G", b""):
        return data
    payloads: dict[int, list[bytes]] = {}  # by stream, because those of sound stand between them
    for start in range(0, min(len(data), _MOST_PACKETS * _PACKET) - _PACKET + 1, _PACKET):
        control = data[start + 3] >> 4
        skipped = 4 + (1 + data[start + 4] if control & 2 else 0)  # header, and adaptation field where there is one
        if control & 1:
            stream = (data[start + 1] & 0x1F) << 8 | data[start + 2]
            payloads.setdefault(stream, []).append(data[start + skipped : start + _PACKET])
    return b"".join(part for parts in payloads.values() for part in parts)


def from_quantisers(decoded: video.Decoded) -> tuple[float, float]:
    """Estimate the CRF of a stream that does not state it.

    The mean luma quantiser of the macroblocks lies above the CRF by a shift. With x264's presets from
    veryfast to slow it is 5.4 +- 0.4 in a still (CamVid), and depends on the motion over the inter
    frames of a sequence, 3.6 +- 1.9; without adaptive quantisation (preset ultrafast: all quantisers
    of the key frame are equal) it is -3 in the key frame. x264 also writes its CRF as the initial
    quantiser of the picture parameters; where that is within 2.5 of the estimate (3.5 in a sequence)
    it is taken. Streams without loss (all quantisers 0) count as CRF 0.

    Returns:
        (CRF, distance between it and the plain estimate). Estimates between two go to the higher one.
    """
    keys = [picture for picture in decoded.quantisers if not picture.inter]
    inter = [picture for picture in decoded.quantisers if picture.inter]
    if keys and all(picture.flat for picture in keys):
        shift, pictures = _FLAT_SHIFT, keys
    elif inter:
        shift, pictures = _INTER_SHIFT, inter
    else:
        shift, pictures = _KEY_SHIFT, keys
    mean = sum(picture.mean for picture in pictures) / len(pictures)
    plain = mean - shift if mean > 0 else LOW
    estimate = min(max(plain, LOW), HIGH)
    initial = decoded.quantisers[-1].initial
    near = abs(initial - estimate) <= (_SNAP_INTER if inter else _SNAP) + _ROUNDING
    crf = float(initial if near else math.floor(estimate + 0.5 + _ROUNDING))
    return crf, abs(crf - plain)


def _distance(a: Values, b: Values) -> float:
    return math.fabs(float(a["crf"]) - float(b["crf"]))


KIND = Kind(
    name="h264",
    parameters=(
        Parameter(name="crf", type=float, low=LOW, high=HIGH, unit="constant rate factor"),
        Parameter(name="gop", type=int, low=1, high=600, unit="frames from key frame to key frame", default=250),
        Parameter(name="preset", type=str, choices=x264.PRESETS, unit="preset of x264", default="medium"),
        Parameter(name="pixels", type=str, choices=x264.PIXELS, unit="chroma format", default="yuv420p"),
    ),
    pristine={"crf": LOW},
    pristine_is_a_level=False,
    distort=distort,
    encode=encode,
    encode_clip=encode_clip,
    suffix=".h264",
    sense=sense,
    max_misfit=4.0,  # what x264's own streams reach is 3.5
    distance=_distance,
    strength=lambda values: float(values["crf"]),
    version=x264.version,
)
