"""JPEG compression (section 4.3): quality Q from 1 to 100, encoded and decoded by Pillow's libjpeg.

A JPEG file does not hold its quality, only the quantisation tables that the encoder derived from it.
The level is therefore read from those tables, which stand in the header: no pixel is decoded.
"""

import io
import math
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from PIL import Image, UnidentifiedImageError

from gearnn.distortions.kinds import Kind, Parameter, Sensed
from gearnn.errors import SenseError
from gearnn.levels import DistortionLevel, LevelPart, Number

_QUALITIES = range(1, 101)


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


def sense(data: bytes) -> Sensed:
    """Read the quality of a JPEG from its quantisation tables, without decoding pixels.

    Args:
        data: the file, or at least its header.

    Returns:
        The nearest quality. ``misfit`` is the mean absolute difference of log2 of the table
        entries, 0.0 for tables that libjpeg wrote; 1.0 means off by a factor of two on average.

    Raises:
        SenseError: the bytes are no JPEG, or end before the tables.
    """
    tables = _tables(data)
    distances = np.abs(_reference(len(tables)) - tables.reshape(1, -1)).mean(axis=1)
    # Of equally near qualities the lower one, that is the stronger distortion, is taken.
    nearest = int(distances.argmin())
    level = DistortionLevel((LevelPart("jpeg", (("quality", _QUALITIES[nearest]),)),))
    return Sensed(level, float(distances[nearest]))


def _tables(data: bytes) -> np.ndarray:
    """log2 of the luma and (where there is one) the first chroma table, float64 [1 or 2, 64]."""
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            tables = dict(getattr(image, "quantization", {}))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        start = data[:4].hex(" ")
        raise SenseError(
            f"expected the header of a JPEG file, but got {len(data)} bytes that start with [{start}]"
        ) from error
    entries = [list(tables[key]) for key in sorted(tables)[:2]]
    if not entries or any(len(table) != 64 or min(table) < 1 for table in entries):
        raise SenseError("expected a JPEG with quantisation tables of 64 entries from 1, but it has none such")
    return np.log2(np.array(entries, dtype=np.float64))


@lru_cache(maxsize=2)
def _reference(num_tables: int) -> np.ndarray:
    """The tables that the installed libjpeg writes for every quality, float64 [100, num_tables * 64]."""
    mode = "RGB" if num_tables == 2 else "L"
    pixel = Image.new(mode, (8, 8))
    return np.stack([_tables(encode(pixel, quality=quality)).reshape(-1) for quality in _QUALITIES])


def _distance(a: Mapping[str, Number], b: Mapping[str, Number]) -> float:
    return math.fabs(a["quality"] - b["quality"])


KIND = Kind(
    name="jpeg",
    parameters=(Parameter(name="quality", type=int, low=1, high=100, unit="libjpeg quality"),),
    pristine={"quality": 100},
    distort=distort,
    encode=encode,
    suffix=".jpg",
    sense=sense,
    distance=_distance,
    strength=lambda values: -values["quality"],
)
