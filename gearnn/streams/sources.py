"""Streams from files: a video, a folder of segments, or a manifest; as an iterator of segments."""

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

from gearnn.distortions import Received
from gearnn.errors import GearNNError, StreamError
from gearnn.store.addresses import file_at, scheme_of
from gearnn.streams.dash import Presentation
from gearnn.streams.media import read_video
from gearnn.streams.player import Choose, RateBased, play
from gearnn.streams.segment import Segment

_IMAGES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".avif"}
_HEIF = {".heic", ".heif", ".hif"}  # found, and then refused one by one, so that none is left out in silence
_CLIPS = {".h264", ".264", ".mp4", ".m4v", ".m4s", ".mkv", ".webm", ".ts", ".mov"}
_OTHER_IMAGES = {".tif", ".tiff", ".gif", ".jp2", ".j2k", ".jxl", ".ico", ".tga", ".dng", ".cr2", ".cr3", ".nef",
                 ".arw"}  # fmt: skip
_OTHER_CLIPS = {".avi", ".mpg", ".mpeg", ".m2v", ".mjpeg", ".mjpg", ".flv", ".wmv", ".asf", ".ogv", ".3gp", ".mts",
                ".m2ts", ".vob", ".h265", ".265", ".hevc", ".ivf", ".obu", ".y4m"}  # fmt: skip


def open_source(
    source: str, *, choose: Choose | None = None, frame_rate: float = 25.0, live_seconds: float | None = None
) -> Iterator[Segment]:
    """Open a stream.

    Args:
        source: a video file, an address that FFmpeg reads (``rtsp://``, ``tcp://``, ``http://...mp4``), a
            folder of segments in the order of their names (clips or images), or a DASH manifest
            (``.mpd``, a path or an address). Names of files may hold colons.
        choose: which representation of a manifest to fetch next; None takes :class:`RateBased`.
        frame_rate: of images in a folder.
        live_seconds: when to stop following a live manifest; None follows it to its end.

    Raises:
        StreamError: no such source, nothing in it, or a file in a folder of a format that would be left out.
    """
    scheme = scheme_of(source)
    if scheme and scheme != "file":
        if re.split("[?#]", source)[0].endswith(".mpd"):
            return play(Presentation.open(source), choose or RateBased(), live_seconds=live_seconds)
        return read_video(source)
    path = file_at(source) if scheme else Path(source)
    if path.is_dir():
        return _folder(path, frame_rate)
    if not path.is_file():
        raise StreamError(
            f"{source}: expected a video file, a folder of segments or a manifest (.mpd), but there is none"
        )
    if path.suffix == ".mpd":
        return play(Presentation.open(str(path)), choose or RateBased(), live_seconds=live_seconds)
    if path.suffix.lower() in _IMAGES | _HEIF | _OTHER_IMAGES:
        raise StreamError(f"{source}: expected a stream, but this is an image; `gearnn infer` takes images")
    return read_video(path)


def _folder(folder: Path, frame_rate: float) -> Iterator[Segment]:
    known = _IMAGES | _HEIF | _CLIPS
    shown = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    other = min((path for path in shown if path.suffix.lower() in _OTHER_IMAGES | _OTHER_CLIPS), default=None)
    if other is not None:
        raise StreamError(
            f"{folder}: expected segments ({', '.join(sorted(_IMAGES | _CLIPS))}), but got {other.name}, which would "
            f"be left out; convert it, or move it away"
        )
    files = sorted((path for path in shown if path.suffix.lower() in known), key=_natural)
    fragments = [file for file in files if file.suffix.lower() == ".m4s"]
    starts = [*fragments, *(file for file in files if file.suffix.lower() in (".mp4", ".m4v"))] if fragments else []
    first = next((file for file in starts if file.stem.lower().startswith("init")), None)
    files = [file for file in files if file is not first]
    if not files:
        raise StreamError(f"{folder}: expected segments ({', '.join(sorted(_IMAGES | _CLIPS))}), but there are none")
    twice = [one for one, other in pairwise(sorted(file.stem.casefold() for file in files)) if one == other]
    if twice:
        raise StreamError(f"{folder}: expected segments of different names, but {twice[0]} stands for two of them")
    start_bytes = b"" if first is None else first.read_bytes()
    return _read(files, lambda file: start_bytes if file.suffix.lower() == ".m4s" else b"", 1.0 / frame_rate)


def _read(files: list[Path], prefix: Callable[[Path], bytes], still: float) -> Iterator[Segment]:
    start, length = 0.0, still
    for file in files:
        try:
            received = Received(prefix(file) + file.read_bytes())
        except OSError as error:
            yield Segment(name=file.stem, start=start, received=None, lost=str(error))
        else:
            yield Segment(name=file.stem, start=start, received=received)
            length = _length(received, still)
        start += length


def _length(received: Received, still: float) -> float:
    """Seconds that a segment lasts; of one that cannot be decoded, as its consumer will find, one frame."""
    try:
        times = received.clip.times
    except GearNNError:
        return still
    return times[-1] + (times[-1] / (len(times) - 1) if len(times) > 1 else still)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Names with numbers in the order of the numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name.lower()) if part]
