"""Clips written by libx264, through PyAV.

They are elementary streams (Annex B, one access unit a frame), encoded on one thread, so that equal
frames give equal bytes and as many cores are used as there are processes. x264's own SEI, which names
its version and settings, stays in the stream, as encoders leave it.
"""

from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path

from PIL import Image

from gearnn.distortions.video import FRAME_RATE, av_library
from gearnn.errors import CodecError, DataError

PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")
PIXELS = ("yuv420p", "yuv422p", "yuv444p")
_SUBSAMPLING = {"yuv420p": (2, 2), "yuv422p": (2, 1), "yuv444p": (1, 1)}
_ENCODER = "libx264"
_PROCESSOR = Path("/proc/cpuinfo")  # on Linux


def encode_h264(
    frames: Sequence[Image.Image],
    *,
    crf: float,
    gop: int,
    preset: str,
    pixels: str,
    size: tuple[int, int] | None = None,
) -> bytes:
    """Encode a clip.

    Args:
        frames: RGB, all of one size.
        crf: constant rate factor, 0 to 51.
        gop: largest number of frames from one key frame to the next.
        preset: of x264.
        pixels: chroma format.
        size: (width, height) to scale to first, bicubic; None keeps the frames' size.

    Returns:
        An elementary stream.

    Raises:
        CodecError: PyAV or its libx264 is missing, or refuses the frames.
        DataError: the frames' size does not suit the chroma format, or differs among them.
    """
    av = av_library()
    width, height = size or frames[0].size
    _check_sizes(frames, width, height, pixels)
    try:
        codec = av.CodecContext.create(_ENCODER, "w")
    except (av.error.FFmpegError, ValueError) as error:
        raise CodecError(
            f"h264: expected a PyAV with {_ENCODER}, but PyAV {av.__version__} here has none; the wheels on PyPI do"
        ) from error
    codec.width, codec.height, codec.pix_fmt = width, height, pixels
    codec.time_base, codec.framerate, codec.thread_count = Fraction(1, FRAME_RATE), FRAME_RATE, 1
    codec.options = {"crf": f"{crf:g}", "preset": preset, "g": str(gop), **instructions()}
    try:
        packets = []
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_image(frame)
            picture = picture.reformat(width=width, height=height, format=pixels, interpolation="BICUBIC")
            picture.pts, picture.time_base = index, codec.time_base
            packets += codec.encode(picture)
        return b"".join(bytes(packet) for packet in [*packets, *codec.encode(None)])
    except av.error.FFmpegError as error:
        raise CodecError(f"h264: {_ENCODER} refused frames of {width}x{height} as {pixels}: {error}") from error


@cache
def instructions() -> dict[str, str]:
    """The option of libx264 that keeps it off AVX-512, where the processor has that.

    With AVX-512 its output hangs on memory that it has not written: in a process that decodes clips between, equal
    frames now and then gave other bytes. Otherwise it writes the same bytes with AVX2, and did so each time.
    """
    try:
        has_avx512 = "avx512" in _PROCESSOR.read_text()
    except OSError:
        has_avx512 = False
    return {"x264-params": "asm=AVX2"} if has_avx512 else {}


def version() -> str:
    """What decides the bytes of a clip besides frames and settings: x264's build, as it writes it into streams."""
    return _encoder_build()


@cache
def _encoder_build() -> str:
    frame = Image.new("RGB", (16, 16))
    data = encode_h264([frame], crf=30, gop=1, preset="ultrafast", pixels="yuv420p")
    start = data.find(b"x264 - core")
    return data[start : start + 30].split(b" - H.264")[0].decode("ascii", "replace") if start >= 0 else _ENCODER


def _check_sizes(frames: Sequence[Image.Image], width: int, height: int, pixels: str) -> None:
    across, down = _SUBSAMPLING[pixels]
    if width % across or height % down:
        needs = "an even width and height" if down == 2 else "an even width"
        raise DataError(
            f"h264: expected frames with {needs}, as {pixels} stores colours, but got {width}x{height}; "
            f"set data.camera.size, or pixels=yuv444p in the level"
        )
    other = next((frame.size for frame in frames if frame.size != frames[0].size), None)
    if other is not None:
        raise DataError(f"h264: expected a clip with frames of one size, but got {frames[0].size} and {other}")
