"""Videos read by PyAV piece by piece, and clips put into containers; the other room that knows PyAV is
:mod:`gearnn.distortions.video`.
"""

import io
from collections import deque
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

from gearnn.distortions import Received
from gearnn.distortions.h264 import x264_settings
from gearnn.distortions.received import MAX_PIXELS
from gearnn.distortions.video import Gatherer, av_library
from gearnn.errors import StreamError
from gearnn.streams.segment import Segment

_MOST_FRAMES = 30  # of one piece: a long group of pictures is handed on in several


def read_video(source: str) -> Iterator[Segment]:
    """A video in pieces, each from a key frame to the next, or of thirty frames.

    Args:
        source: a file, or an address that FFmpeg reads.

    Raises:
        StreamError: it cannot be opened, or holds no video.
    """
    av = av_library()
    options = {"export_side_data": "venc_params", "max_pixels": str(MAX_PIXELS)}
    try:
        file = av.open(source, options=options, timeout=(10.0, 10.0))
    except (OSError, ValueError) as error:
        raise StreamError(f"{source}: expected a video that FFmpeg reads: {' '.join(str(error).split())}") from error
    if not file.streams.video:
        file.close()
        raise StreamError(f"{source}: expected a video, but it has no video stream")
    file.streams.video[0].codec_context.options = options
    return _pieces(file, av)


def _pieces(file: Any, av: Any) -> Iterator[Segment]:
    """One piece after another; what is damaged is told as lost, and the video goes on behind it."""
    stream = file.streams.video[0]
    codec = stream.codec_context.name
    written: deque[list[bytes]] = deque([[]])  # packets, from key packet to key packet
    gathered, number, settings = Gatherer(), 0, b""
    start = 0.0

    def piece() -> Segment:
        nonlocal gathered, settings
        clip, data = gathered.clip(), b"".join(written[0])
        settings = x264_settings(data) or settings  # written once, valid for all that follows
        gathered = Gatherer()
        if codec == "mjpeg":
            return Segment(name=f"{number - len(clip.frames):06d}", start=start, received=Received(data))
        received = Received.of_clip(clip, data if x264_settings(data) else settings + data)
        return Segment(name=f"{number - len(clip.frames):06d}", start=start, received=received)

    with file:
        packets = file.demux(stream)
        while True:
            try:
                packet = next(packets)
                if packet.is_keyframe and written[-1]:
                    written.append([])
                written[-1].append(bytes(packet))
                frames = packet.decode()
            except StopIteration:
                break
            except (av.error.FFmpegError, ValueError) as error:
                yield Segment(name=f"{number:06d}", start=start, received=None, lost=" ".join(str(error).split()))
                if isinstance(error, av.error.EOFError):
                    break
                continue
            for frame in frames:
                if gathered and (frame.key_frame or len(gathered) >= _MOST_FRAMES):
                    yield piece()
                    if frame.key_frame and len(written) > 1:
                        written.popleft()
                if not gathered:
                    start = float(frame.time or 0.0)
                number += 1
                if frame.is_corrupt:
                    yield Segment(name=f"{number - 1:06d}", start=float(frame.time or 0.0), received=None,
                                  lost="a frame is damaged or cut off")  # fmt: skip
                    continue
                gathered.add(codec, frame)
        if gathered:
            yield piece()


def as_transport_stream(clip: bytes, frame_rate: Fraction, start: float) -> bytes:
    """An elementary stream of H.264 as a segment of MPEG-TS; no frame is decoded.

    Args:
        clip: access units as :func:`gearnn.distortions.encode_clip` writes them.
        frame_rate: frames a second.
        start: of the first frame, in seconds.
    """
    av = av_library()
    target = io.BytesIO()
    with av.open(io.BytesIO(clip), format="h264") as source, av.open(target, "w", format="mpegts") as written:
        stream = written.add_stream_from_template(source.streams.video[0])
        for index, packet in enumerate(p for p in source.demux(source.streams.video[0]) if p.size):
            packet.stream, packet.time_base = stream, 1 / frame_rate
            packet.pts = packet.dts = index + round(start * frame_rate)
            written.mux(packet)
    return target.getvalue()


def write_video(path: str, clips: Sequence[bytes], frame_rate: Fraction) -> None:
    """Elementary streams of H.264, one after the other, as one file; the container goes by the name's ending."""
    av = av_library()
    with av.open(path, "w") as written:
        stream, number = None, 0
        for clip in clips:
            with av.open(io.BytesIO(clip), format="h264") as source:
                stream = stream or written.add_stream_from_template(source.streams.video[0])
                for packet in source.demux(source.streams.video[0]):
                    if packet.size:
                        packet.stream, packet.time_base = stream, 1 / frame_rate
                        packet.pts = packet.dts = number
                        written.mux(packet)
                        number += 1
