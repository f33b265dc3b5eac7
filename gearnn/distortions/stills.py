"""Still pictures as people see them: upright, whole, opaque; RGB with 8 bits a channel.

Cameras store pixels as the sensor lies and say in EXIF how to turn them. Here they are turned, in every
format that is read. What cannot be had whole or unambiguously is refused: HEIF, animations, transparency.
"""

import io
import logging
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from PIL import Image

from gearnn.errors import DataError

MAX_PIXELS = 1 << 26
"""Largest frame that is decoded, in pixels: 8192 x 8192. A bomb declares more than it holds."""

READ = "JPEG, PNG, WebP, BMP, PPM, AVIF; H.264, MP4, Matroska, MPEG-TS"
"""What is read, for messages."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "AVIF")
_ORIENTATION = 0x0112  # EXIF 2.3, 4.6.4 A
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_CARRIERS = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")  # keys of Image.info
_PNG_CARRIERS = (b"eXIf", b"tEXtRaw profile type exif", b"zTXtRaw profile type exif", b"iTXtXML:com.adobe.xmp")

_AVIF = {b"avif", b"avis"}
_HEIF = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"mif2", b"msf1", b"miaf",
         b"avci", b"avcs", b"jpeg", b"jpgs", b"j2ki", b"j2is", b"vvic", b"vvis", b"evbi", b"evbs"}  # fmt: skip
_CANON_RAW = b"crx "
_CLEAN_APERTURE = b"\0\0\0\x28clap"  # 12.1.4.1
PICTURE_BRANDS = _AVIF | _HEIF | {_CANON_RAW}
"""Of files of boxes (ISO/IEC 14496-12) that are pictures: HEIF, AVIF, Canon's raw files."""

_MOVIE = {b"moov", b"moof"}

_FOREIGN = {
    b"GIF8": "a GIF",
    b"II*\0": "a TIFF or camera raw file",
    b"MM\0*": "a TIFF or camera raw file",
    b"\0\0\1\0": "an ICO",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"8BPS": "a Photoshop file",
    b"FLV": "Flash video",
    b"OggS": "an Ogg file",
    b"%PDF": "a PDF",
    b"%!PS": "PostScript",
    b"<svg": "an SVG",
    b"version https://git-lfs": "a pointer of Git LFS instead of the file (`git lfs pull` brings it)",
}


def open_image(data: bytes) -> Image.Image:
    """A picture with its header read and its size checked, pixels neither decoded nor turned yet.

    Raises:
        DataError: no picture of a format that is read, several pictures, or one of more than ``MAX_PIXELS``.
    """
    kind = picture_of_boxes(data)
    if kind and kind != "AVIF":
        raise DataError(f"expected an encoded image ({READ}), but got {kind}; convert it to JPEG or PNG")
    try:
        image = Image.open(io.BytesIO(data), formats=_available())
    except Exception as error:
        raise unreadable(data, error) from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise DataError(f"expected a frame of at most {MAX_PIXELS:,} pixels, but got {width}x{height}")
    if image.format in ("PNG", "WEBP", "AVIF") and getattr(image, "is_animated", False):
        number = getattr(image, "n_frames", 0)
        raise DataError(f"expected a still picture, but this {image.format} has {number} frames; save the one you mean")
    if image.format == "AVIF" and _CLEAN_APERTURE in data[: data.find(b"mdat")]:
        raise DataError("expected a whole picture, but this AVIF shows a part of its pixels only; save it anew")
    if image.format == "PNG" and not any(chunk.startswith(_PNG_CARRIERS) for chunk in _chunks(data)):
        image.info.setdefault("exif", b"")  # else Pillow decodes all pixels to look for EXIF behind them
    return image


def orientation_of(image: Image.Image) -> int:
    """How a picture's pixels lie, as EXIF counts it: 1 upright, 2 to 8 mirrored or turned.

    Pixels lie as they are stored, 1, where nothing is said, and where what is said is damaged or none of these
    numbers; that is logged.
    """
    told = ""
    try:
        said = image.getexif().get(_ORIENTATION, 1)
        if said not in (0, 1) and said not in _TURNS:  # cameras that do not know write 0
            told = repr(said)[:60]
    except Exception as error:  # Pillow raises a dozen kinds of errors on damaged EXIF
        told = f"damaged EXIF ({' '.join(str(error).split())[:100]})"
    if told:
        name = getattr(image, "filename", "") or "a picture"
        _log_once(f"{name}: expected an EXIF orientation 1 to 8, but got {told}; its pixels stay as they are")
        return 1
    return max(1, int(said))


def upright(image: Image.Image) -> Image.Image:
    """The picture as it is meant to be seen; what said so is gone, so that nobody turns it again."""
    orientation = orientation_of(image)
    if orientation == 1:
        return image
    turned = image.transpose(_TURNS[orientation])
    for carrier in _CARRIERS:
        turned.info.pop(carrier, None)
    return turned


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) of :func:`upright`, from the header."""
    width, height = image.size
    return (height, width) if orientation_of(image) >= 5 else (width, height)


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture upright, as RGB with 8 bits a channel; grey values of 16 bits are scaled.

    Raises:
        DataError: values that have no stated range, or transparent pixels, whose colours mean nothing.
    """
    image = upright(image)
    if image.has_transparency_data:
        _check_opaque(image)
    elif image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):
        grey = np.asarray(image, dtype=np.float64) / 257.0  # 65535 becomes 255
        return Image.fromarray(np.round(grey).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise DataError(f"expected an image of 8 or 16 bits a channel, but got Pillow's mode {image.mode}")
    return image.convert("RGB")


def picture_of_boxes(data: bytes) -> str:
    """What a file of boxes (ISO/IEC 14496-12) is, if no video: ``AVIF``, or words for another; empty for others.

    Video decoders answer such pictures with their first tile.
    """
    if data[4:8] != b"ftyp":
        return ""
    end = int.from_bytes(data[:4], "big")
    major, brands = data[8:12], {data[at : at + 4] for at in range(8, min(end, 512), 4)}
    boxes = _boxes(data)
    if major == _CANON_RAW:
        return "a raw file of Canon's (CR3)"
    if not (major in _AVIF | _HEIF or (b"meta" in boxes and not boxes & _MOVIE)):
        return ""
    return "AVIF" if brands & _AVIF else f"a picture in HEIF (HEIC, brand {major.decode('ascii', 'replace')})"


def unreadable(data: bytes, error: Exception) -> DataError:
    """What cannot be read, by its name where that is known."""
    foreign = next((name for start, name in _FOREIGN.items() if data.startswith(start)), "")
    if data[:4] == b"RIFF" and data[8:11] == b"AVI":
        foreign = "an AVI"
    bits = _bits_of_jpeg(data)
    if bits not in (0, 8):
        foreign = f"a JPEG of {bits} bits a channel, where 8 are read"
    if foreign:
        return DataError(f"expected an encoded image ({READ}), but got {foreign}")
    reason = " ".join(str(error).split())[:200].partition(" <_io.BytesIO")[0]
    return DataError(
        f"expected an encoded image, but {len(data)} bytes that start with [{data[:4].hex(' ')}] gave: {reason}"
    )


def _available() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)  # AVIF came with Pillow 11.3


def _check_opaque(image: Image.Image) -> None:
    if image.mode.startswith("I;16"):
        share = float(np.mean(np.asarray(image) == image.info.get("transparency")))
    else:
        share = float(np.mean(np.asarray(image.convert("RGBA"))[..., 3] < 255))
    if share:
        raise DataError(
            f"expected an opaque picture, but {100 * share:.3g} % of its pixels are transparent; "
            f"lay it over the background that is meant, and save it without transparency"
        )


def _boxes(data: bytes) -> set[bytes]:
    """Types of the outermost boxes."""
    found, at = set(), 0
    while at + 8 <= len(data):
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        size = int.from_bytes(data[at + 8 : at + 16], "big") if size == 1 else size
        found.add(kind)
        at += size if size >= 8 else len(data)
    return found


def _chunks(data: bytes) -> Iterator[bytes]:
    """Types of a PNG's chunks, each with the start of its content."""
    at = 8
    while at + 8 <= len(data):
        yield data[at + 4 : at + 40]
        at += 12 + int.from_bytes(data[at : at + 4], "big")


def _bits_of_jpeg(data: bytes) -> int:
    """Bits a channel that a JPEG's frame header states; 0 for what has none."""
    at = 2 if data[:2] == b"\xff\xd8" else len(data)
    while at + 5 <= len(data) and data[at] == 0xFF:
        if 0xC0 <= data[at + 1] <= 0xCF and data[at + 1] not in (0xC4, 0xC8, 0xCC):
            return data[at + 4]
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0


@lru_cache(maxsize=4096)  # a file is opened several times, and a stream has many frames
def _log_once(text: str) -> None:
    logging.getLogger("gearnn").warning(text)
