"""JPEG compression (section 4.3): quality Q from 1 to 100, encoded and decoded by Pillow's libjpeg.

A JPEG file does not hold its quality, only the quantisation tables that the encoder derived from it.
The level is therefore read from those tables, which stand in the header: no pixel is decoded. Tables
of other encoders (cameras, mozjpeg) go to the nearest quality, and the misfit says how near. A picture
that was saved before, at a lower quality, does not show it there: :func:`look_closer` finds that in the
pixels.
"""

import io
import math
from collections.abc import Iterator
from functools import cache, lru_cache

import numpy as np
from PIL import Image, __version__, features

from gearnn.distortions.kinds import Kind, Parameter, Reading, Values
from gearnn.distortions.received import Received
from gearnn.distortions.recompression import first_quality
from gearnn.errors import SenseError

_QUALITIES = range(1, 101)
_DQT, _SOS = 0xDB, 0xDA
_SOF = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # start of a frame of any coding
_ROUNDING = 1e-9  # of means of logarithms
_ALONE = {0x00, 0x01, *range(0xD0, 0xD8), 0xD8}  # markers without a segment, and stuffed bytes

Tables = tuple[tuple[int, ...], ...]


def encode(image: Image.Image, *, quality: int) -> bytes:
    """Compress a frame as a camera would.

    Args:
        image: RGB, 8 bits a channel.
        quality: Q, 1 (worst) to 100 (best), in libjpeg's scale.

    Returns:
        A baseline JPEG with 4:2:0 chroma, Pillow's default.
    """
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=int(quality))
    return buffer.getvalue()


def distort(image: Image.Image, *, quality: int) -> Image.Image:
    """The frame as the receiver of its JPEG sees it; RGB in, RGB of the same size out."""
    with Image.open(io.BytesIO(encode(image, quality=quality))) as decoded:
        return decoded.convert("RGB")


def sense(received: Received) -> Reading:
    """Read the quality of a JPEG from its quantisation tables, without decoding pixels.

    Returns:
        The nearest quality. ``misfit`` is the mean absolute difference of log2 of the table
        entries, 0.0 for tables that libjpeg wrote; 1.0 means off by a factor of two on average.

    Raises:
        SenseError: the bytes are no JPEG, or end before the tables.
    """
    quality, misfit = _nearest(_tables(received.data))
    return Reading({"quality": quality}, misfit)


def look_closer(received: Received, reading: Reading) -> Reading:
    """Find out whether a JPEG was saved before, at a lower quality; see :mod:`gearnn.distortions.recompression`.

    The luma is decoded once more for it. A file that cannot be decoded is as the tables say.

    Args:
        received: a JPEG.
        reading: what :func:`sense` says of it.

    Returns:
        The quality of the first save, which decides how the picture looks, with a note; or what was given.
    """
    last = int(reading.values["quality"])
    first = _first(received.data) if last > 1 else None
    if first is None or first >= last:
        return reading
    note = f"saved at a quality of {last} after one of about {first}"
    return Reading({"quality": first}, reading.misfit, note)


@lru_cache(maxsize=4)  # sensors of several combinations ask about one frame
def _first(data: bytes) -> int | None:
    return first_quality(data, _tables(data)[0], _luma_tables())


@cache
def _luma_tables() -> Tables:
    """The luma tables that the installed libjpeg writes for every quality."""
    pixel = Image.new("L", (8, 8))
    return tuple(_tables(encode(pixel, quality=quality))[0] for quality in _QUALITIES)


@lru_cache(maxsize=1024)  # the frames of a stream have the same tables
def _nearest(tables: Tables) -> tuple[int, float]:
    """(quality, misfit); of equally near qualities the lower one, that is the stronger distortion."""
    entries = np.log2(np.array(tables, dtype=np.float64)).reshape(1, -1)
    distances = np.abs(_reference(len(tables)) - entries).mean(axis=1)
    least = float(distances.min())
    return _QUALITIES[int((distances <= least + _ROUNDING).argmax())], least


def _tables(data: bytes) -> Tables:
    """The quantisation tables of the luma and, where it has its own, the first chroma component, 64 entries each.

    Read from the segments before the first scan (ITU-T T.81, B.2). Pillow says the same, but takes
    several times as long for files with EXIF, as cameras write. Files of RGB or CMYK have one table for
    all components. Entries above 255, which only files beyond the baseline may hold, count as 255, the
    largest that Pillow writes.
    """
    tables: dict[int, tuple[int, ...]] = {}
    numbers: list[int] = []
    try:
        for marker, segment in _segments(data):
            if marker == _DQT:
                tables |= _read_tables(segment)
            elif marker in _SOF:
                numbers = [segment[8 + 3 * component] for component in range(min(segment[5], 2))]
    except (IndexError, ValueError) as error:
        raise SenseError(
            f"expected the header of a JPEG file, but got {len(data)} bytes that start with [{data[:4].hex(' ')}]"
        ) from error
    try:
        used = tuple(tables[number] for number in dict.fromkeys(numbers))
    except KeyError as error:
        raise SenseError(f"expected a JPEG with its quantisation tables, but table {error} is missing") from None
    if not used or any(min(table) < 1 for table in used):
        raise SenseError("expected a JPEG with quantisation tables of 64 entries from 1, but it has none such")
    return used


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, content) of every segment before the first scan; IndexError or ValueError where they break off."""
    if data[:2] != b"\xff\xd8":
        raise ValueError("no JPEG")
    at = 2
    while True:
        at = data.index(b"\xff", at) + 1
        while data[at] == 0xFF:  # fill bytes
            at += 1
        marker = data[at]
        if marker == _SOS:
            return
        at += 1
        if marker in _ALONE:
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        segment = data[at + 2 : at + length]
        if length < 2 or len(segment) != length - 2:
            raise ValueError("a segment that breaks off")
        yield marker, segment
        at += length


def _read_tables(segment: bytes) -> dict[int, tuple[int, ...]]:
    """Tables by number, in the file's own (zigzag) order."""
    found: dict[int, tuple[int, ...]] = {}
    at = 0
    while at < len(segment):
        wide, number = segment[at] >> 4, segment[at] & 15
        entries = segment[at + 1 : at + 1 + (128 if wide else 64)]
        if len(entries) != (128 if wide else 64):
            raise ValueError("a table that breaks off")
        at += 1 + len(entries)
        values = [min(high << 8 | low, 255) for high, low in zip(entries[::2], entries[1::2], strict=True)]
        found[number] = tuple(values if wide else entries)
    return found


@lru_cache(maxsize=2)
def _reference(num_tables: int) -> np.ndarray:
    """log2 of the tables that the installed libjpeg writes for every quality, float64 [100, num_tables * 64]."""
    pixel = Image.new("RGB" if num_tables == 2 else "L", (8, 8))
    tables = [_tables(encode(pixel, quality=quality)) for quality in _QUALITIES]
    return np.log2(np.array(tables, dtype=np.float64)).reshape(100, -1)


def _distance(a: Values, b: Values) -> float:
    return math.fabs(float(a["quality"]) - float(b["quality"]))


KIND = Kind(
    name="jpeg",
    parameters=(Parameter(name="quality", type=int, low=1, high=100, unit="libjpeg quality"),),
    pristine={"quality": 100},
    distort=distort,
    encode=encode,
    suffix=".jpg",
    sense=sense,
    look_closer=look_closer,
    max_misfit=1.0,  # table entries off by a factor of two on average; tables of known encoders are within 0.82
    distance=_distance,
    strength=lambda values: -float(values["quality"]),
    version=lambda: f"pillow {__version__} jpeg {features.version('jpg')}",
)
