"""Videos read by PyAV piece by piece, and clips put into containers; the other room that knows PyAV is
:mod:`gearnn.distortions.video`.
"""

import io
from collections import deque
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from gearnn.distortions import Received
from gearnn.distortions.h264 import x264_settings
from gearnn.distortions.showing import Turning, note_oddities
from gearnn.distortions.stills import MAX_PIXELS
from gearnn.distortions.video import Gatherer, av_library, shown_stream
from gearnn.errors import StreamError
from gearnn.store.addresses import scheme_of, shown
from gearnn.streams.segment import Segment

_PROTOCOLS = ("http", "https", "rtsp", "rtsps", "rtmp", "rtmps", "rtmpt", "rtmpts", "tcp", "tls", "udp", "rtp", "srt")
_REMOTE = {"protocol_whitelist": ",".join((*_PROTOCOLS, "srtp", "crypto", "httpproxy", "data"))}  # no files, no pipes
_FORMATS = (
    *("mov", "matroska", "mpegts", "mpeg", "avi", "flv", "live_flv", "asf", "ogg", "mxf", "nut", "dv", "gxf", "rm"),
    *("wtv", "nuv", "dhav", "ivf", "obu", "av1", "h264", "hevc", "vvc", "evc", "m4v", "mpegvideo", "h261", "h263"),
    *("vc1", "dirac", "cavsvideo", "avs2", "avs3", "mjpeg", "mpjpeg", "yuv4mpegpipe", "gif", "apng"),
)
_LOCAL = {"protocol_whitelist": "file", "format_whitelist": ",".join(_FORMATS)}  # none of which opens other files
_MOST_FRAMES = 30  # of one piece: a long group of pictures is handed on in several


def read_video(source: str | Path) -> Iterator[Segment]:
    """A video in pieces, each from a key frame to the next, or of thirty frames.

    What the source leads FFmpeg to, such as the parts of a playlist, must be on the network, as the source is;
    a file leads nowhere, and playlists are refused.

    Args:
        source: a file, or an address that FFmpeg reads.

    Raises:
        StreamError: it cannot be opened, or holds no video.
        DataError: it is a picture.
    """
    what, scheme = shown(str(source)), scheme_of(str(source))
    if scheme and scheme not in _PROTOCOLS:
        raise StreamError(f"{what}: expected an address of {', '.join(_PROTOCOLS)}")
    if not scheme and not Path(source).is_file():
        raise StreamError(f"{what}: expected a video, but there is no such file")
    av = av_library()
    options = {"export_side_data": "venc_params", "max_pixels": str(MAX_PIXELS)}
    address, limits = (str(source), _REMOTE) if scheme else (f"file:{Path(source).absolute()}", _LOCAL)
    try:
        file = av.open(address, options=options, container_options=limits, timeout=(10.0, 10.0))
    except (OSError, ValueError, av.error.FFmpegError) as error:
        reason = shown(" ".join(str(error).split()))
        raise StreamError(f"{what}: expected a video that FFmpeg reads: {reason}") from None  # the cause has passwords
    if shown_stream(file) is None:
        file.close()
        raise StreamError(f"{what}: expected a video, but it has no video stream")
    shown_stream(file).codec_context.options = options
    return _pieces(file, av)


def _pieces(file: Any, av: Any) -> Iterator[Segment]:
    """One piece after another; what is damaged is reported as lost, and the video goes on behind it."""
    stream = shown_stream(file)
    stream.codec_context.thread_type = "SLICE"  # errors come with the packet that they are about
    stream.codec_context.copy_opaque = True  # every frame brings its packet's number and group with it
    cutter, damaged = _Cutter(stream), deque[tuple[int, str]]()  # packets that gave no frame, by number, and why
    with file:
        for number, group, frames, damage in _decoded(file.demux(stream), av):
            if damage is not None:
                damaged.append((number, damage))
            for frame in frames:  # those of packets before the damaged one may come after its error
                place, its_group = frame.opaque or (number, group)
                while damaged and damaged[0][0] < place:
                    yield from cutter.lost(damaged.popleft()[1])
                yield from cutter.take(frame, its_group)
        yield from cutter.rest()
        for _, reason in damaged:
            yield from cutter.lost(reason)


def _decoded(packets: Iterator[Any], av: Any) -> Iterator[tuple[int, list[bytes], list[Any], str | None]]:
    """Of every packet: its number, the packets since the last key packet, its frames, and what is wrong with it."""
    group: list[bytes] = []
    number = -1
    while True:
        try:
            packet = next(packets)
            group = [] if packet.is_keyframe or len(group) >= 2 * _MOST_FRAMES else group
            group.append(bytes(packet))
            number += 1
            packet.opaque = number, group
            frames = packet.decode()
        except StopIteration:
            return
        except (av.error.FFmpegError, ValueError) as error:
            yield number, group, [], " ".join(str(error).split())
            if isinstance(error, av.error.EOFError):
                return
        else:
            yield number, group, frames, None


class _Cutter:
    """Gathers frames until a key frame, or until a piece is long enough."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._codec = stream, stream.codec_context.name
        self._rate = float(stream.average_rate or 25)
        self._gathered, self._turning = Gatherer(), Turning()
        self._group: list[bytes] = []  # packets of what is gathered
        self._settings = b""  # of x264, written once, valid for all that follows
        self._number = self._first = 0
        self._start = 0.0
        self._origin: float | None = None
        self._turned: Any = None

    def take(self, frame: Any, group: list[bytes]) -> Iterator[Segment]:
        """Gather one frame of a group of packets; gives the piece before it, where it begins another."""
        if frame.is_corrupt:
            yield from self.lost("a frame is damaged or cut off")
            return
        if frame.key_frame or len(self._gathered) >= _MOST_FRAMES:
            yield from self.rest()
        if not self._gathered:
            self._origin = frame.time if self._origin is None else self._origin
            is_timed = frame.time is not None and self._origin is not None
            self._start = frame.time - self._origin if is_timed else self._number / self._rate
            self._first, self._group = self._number, group
        self._number += 1
        self._turned = self._turning(frame)
        note_oddities(frame, self._stream.sample_aspect_ratio)
        self._gathered.add(self._codec, frame, self._turned)

    def lost(self, reason: str) -> Iterator[Segment]:
        """A segment in the place of what is damaged."""
        yield from self.rest()
        yield Segment(name=f"{self._number:06d}", start=self._number / self._rate, received=None, lost=reason)
        self._number += 1

    def rest(self) -> Iterator[Segment]:
        """What is gathered, as a piece."""
        if not self._gathered:
            return
        clip, data = self._gathered.clip(), b"".join(self._group)
        self._settings = x264_settings(data) or self._settings
        self._gathered = Gatherer()
        if self._codec == "mjpeg":  # its tables are sensed; the container may know how to turn it, the bytes do not
            received = Received(data)
            if self._turned is not None:
                received.__dict__["image"] = clip.frames[-1]
        else:
            received = Received.of_clip(clip, data if x264_settings(data) else self._settings + data)
        yield Segment(name=f"{self._first:06d}", start=self._start, received=received)


def as_transport_stream(clip: bytes, frame_rate: Fraction, start: float) -> bytes:
    """An elementary stream of H.264 as a segment of MPEG-TS; it is not encoded anew.

    Args:
        clip: access units as :func:`gearnn.distortions.encode_clip` writes them.
        frame_rate: frames a second.
        start: of the first frame, in seconds.
    """
    target = io.BytesIO()
    with av_library().open(target, "w", format="mpegts") as written:
        _mux(written, [clip], frame_rate, round(start * frame_rate))
    return target.getvalue()


def write_video(path: str, clips: Sequence[bytes], frame_rate: Fraction) -> None:
    """Elementary streams of H.264, one after the other, as one file; the container goes by the name's ending."""
    with av_library().open(path, "w") as written:
        _mux(written, clips, frame_rate, 0)


def _mux(written: Any, clips: Sequence[bytes], frame_rate: Fraction, number: int) -> None:
    """Put clips into a container, the first frame shown at ``number / frame_rate``."""
    av = av_library()
    places = [_places(clip) for clip in clips]
    ahead = max(index - place for order in places for index, place in enumerate(order))
    stream = None
    for clip, order in zip(clips, places, strict=True):
        with av.open(io.BytesIO(clip), format="h264") as source:
            stream = stream or written.add_stream_from_template(source.streams.video[0])
            packets = [packet for packet in source.demux(source.streams.video[0]) if packet.size]
            for index, (packet, place) in enumerate(zip(packets, order, strict=True)):
                packet.stream, packet.time_base, packet.duration = stream, 1 / frame_rate, 1
                packet.pts, packet.dts = number + place, number + index - ahead
                written.mux(packet)
        number += len(order)


def _places(clip: bytes) -> list[int]:
    """Of every access unit its place in the order of showing, which only the decoder knows.

    Raises:
        StreamError: an access unit without a frame.
    """
    with av_library().open(io.BytesIO(clip), format="h264") as source:
        stream = source.streams.video[0]
        stream.codec_context.copy_opaque = True
        order: list[int] = []
        count = 0
        for packet in source.demux(stream):
            packet.opaque = count
            count += packet.size > 0
            order += [frame.opaque for frame in packet.decode()]
    if sorted(order) != list(range(count)):
        raise StreamError(f"expected a clip with a frame in each of its {count} access units, but got {len(order)}")
    return sorted(range(count), key=order.__getitem__)
