"""Pictures as they are meant to be seen, against Pillow's own ``ImageOps.exif_transpose``."""

import io
import logging
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from gearnn.distortions import Received, decode, encode, sense
from gearnn.distortions.stills import open_image, picture_of_boxes, to_rgb, upright
from gearnn.errors import DataError

ORIENTATIONS = range(1, 9)


def picture(size: tuple[int, int] = (48, 32)) -> Image.Image:
    """Every quarter of another colour, so that no turn or reflection looks like another."""
    image = Image.new("RGB", size, (20, 60, 200))
    image.paste((220, 40, 20), (0, 0, size[0] // 2, size[1] // 2))
    image.paste((30, 200, 60), (size[0] // 2, 0, *size))
    return image


def saved(image: Image.Image, kind: str, **more: object) -> bytes:
    buffer = io.BytesIO()
    lossless = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}, "AVIF": {"quality": 100}}
    image.save(buffer, kind, **lossless.get(kind, {}), **more)
    return buffer.getvalue()


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def xmp_of(orientation: int) -> bytes:
    return f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def check_against_pillow(data: bytes, *, is_turned: bool) -> None:
    reference = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert (reference.size != Image.open(io.BytesIO(data)).size) == is_turned
    assert Received(data).size == reference.size, "from the header"
    got = Received(data).image
    assert np.array_equal(np.asarray(got), np.asarray(reference.convert("RGB")))
    assert got.getexif().get(0x0112, 1) == 1, "nobody turns it again"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_picture_is_seen_as_its_exif_says(kind: str, orientation: int) -> None:
    check_against_pillow(saved(picture(), kind, exif=exif_of(orientation)), is_turned=orientation >= 5)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_xmp_counts_where_there_is_no_exif(kind: str) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", xmp_of(6).decode())
    more = {"pnginfo": text} if kind == "PNG" else {"xmp": xmp_of(6)}
    check_against_pillow(saved(picture(), kind, **more), is_turned=True)


def test_a_png_may_say_it_behind_its_pixels_or_in_a_profile_of_imagemagicks() -> None:
    plain, exif = saved(picture(), "PNG"), exif_of(8).tobytes()
    end = plain.index(b"IEND") - 4
    behind = plain[:end] + png_chunk(b"eXIf", exif.removeprefix(b"Exif\0\0")) + plain[end:]
    check_against_pillow(behind, is_turned=True)
    text = PngImagePlugin.PngInfo()
    text.add_text("Raw profile type exif", f"\nexif\n{len(exif):8}\n{exif.hex()}\n", zip=True)
    check_against_pillow(saved(picture(), "PNG", pnginfo=text), is_turned=True)


def test_the_size_of_a_png_without_exif_is_read_without_its_pixels() -> None:
    whole = saved(Image.effect_noise((64, 64), 90), "PNG")
    assert Received(whole[: len(whole) // 2]).size == (64, 64)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_turns_nothing(orientation: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "gearnn"):
        got = decode(saved(picture(), "PNG", exif=exif_of(orientation)))
    assert np.array_equal(np.asarray(got), np.asarray(picture()))
    told = f"a picture: expected an EXIF orientation 1 to 8, but got {orientation}; its pixels stay as they are"
    assert caplog.messages == ([told] if orientation else []), "0 is what cameras write that do not know"


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's own word to the terminal
@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0nothing of this kind",
        b"Exif\0\0II*\0\xff\xff\xff\x7f",  # the directory lies behind the end
        b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI", 0x0112, 3, 1),  # cut off within the entry
        b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI4s", 0x0112, 2, 4, b"six\0") + bytes(4),  # text
        b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 0x0112, 3, 2, 6, 6) + bytes(4),  # two numbers
    ],
)
def test_damaged_exif_neither_stops_nor_turns_a_picture(exif: bytes) -> None:
    stored = saved(picture(), "JPEG")
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    data = stored[:2] + segment + stored[2:]
    assert Received(data).size == (48, 32)
    assert np.array_equal(np.asarray(decode(data)), np.asarray(decode(stored)))


def test_damaged_exif_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    data = saved(picture(), "PNG", exif=b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI4sI", 0x0112, 2, 4, b"up\0\0", 0))
    with caplog.at_level(logging.WARNING, "gearnn"):
        for _ in range(3):
            decode(data)
    assert len(caplog.messages) == 1
    assert "expected an EXIF orientation 1 to 8, but got 'up\\x00'; its pixels stay as they are" in caplog.messages[0]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_decoded_picture_that_carries_an_orientation_is_turned_by_it(orientation: int) -> None:
    opened = Image.open(io.BytesIO(saved(picture(), "PNG", exif=exif_of(orientation))))
    reference = ImageOps.exif_transpose(opened)
    assert np.array_equal(np.asarray(Received.of_image(opened).image), np.asarray(reference))
    assert np.array_equal(np.asarray(decode(encode(opened, "pristine"))), np.asarray(reference))
    assert Received.of_image(reference).image.size == reference.size, "already turned by whoever opened it"


def test_jpeg_tables_are_sensed_as_before_whatever_the_orientation() -> None:
    for orientation in ORIENTATIONS:
        buffer = io.BytesIO()
        picture().save(buffer, "JPEG", quality=37, exif=exif_of(orientation))
        assert str(sense(buffer.getvalue()).level) == "jpeg:quality=37"


def test_transparent_pixels_are_refused_and_an_opaque_alpha_channel_is_not() -> None:
    opaque = picture().convert("RGBA")
    assert np.array_equal(np.asarray(decode(saved(opaque, "PNG"))), np.asarray(picture()))
    seen_through = opaque.copy()
    seen_through.putalpha(Image.linear_gradient("L").resize(opaque.size))
    for kind in ("PNG", "WEBP"):
        with pytest.raises(DataError, match=r"expected an opaque picture, but [\d.]+ % of its pixels are transparent"):
            decode(saved(seen_through, kind))
    for mode, colour in (("P", 0), ("L", 60), ("RGB", (220, 40, 20)), ("I;16", 700)):
        image = Image.new("I;16", (4, 4), 700) if mode == "I;16" else picture().quantize(4).convert(mode)
        image = image if mode != "RGB" else picture()
        colour = image.getpixel((0, 0)) if mode in ("L", "P") else colour
        with pytest.raises(DataError, match="of its pixels are transparent"):
            decode(saved(image, "PNG", transparency=colour))


def test_colour_of_16_bits_keeps_its_upper_8() -> None:
    """Pillow cannot write such a file."""
    pixels = np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)
    rows = b"".join(b"\0" + np.repeat(row[:, None], 3, axis=1).astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    got = np.asarray(decode(b"\x89PNG\r\n\x1a\n" + chunks))
    assert np.array_equal(got, np.repeat((pixels >> 8).astype(np.uint8)[..., None], 3, axis=2))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "AVIF"])
def test_an_animation_is_no_frame(kind: str) -> None:
    others = [Image.new("RGB", (48, 32), colour) for colour in ("red", "green")]
    with pytest.raises(DataError, match=f"expected a still picture, but this {kind} has 3 frames; save the one you"):
        decode(saved(picture(), kind, save_all=True, append_images=others))


def test_of_a_jpeg_of_several_pictures_the_first_is_the_frame() -> None:
    """Phones put previews, depth and gain maps behind it."""
    data = saved(picture(), "MPO", save_all=True, append_images=[Image.new("RGB", (24, 16), "red")], quality=100)
    assert Received(data).size == (48, 32)
    assert np.abs(np.asarray(decode(data), int) - np.asarray(picture(), int))[2:14, 2:20].max() < 4


def test_cmyk_is_read_in_its_colours() -> None:
    got = np.asarray(decode(saved(picture().convert("CMYK"), "JPEG")), int)
    assert np.abs(got - np.asarray(picture(), int))[2:14, 2:20].max() < 6


def box(kind: bytes, content: bytes) -> bytes:
    return (8 + len(content)).to_bytes(4, "big") + kind + content


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1", b"msf1", b"hevc", b"avci", b"crx "])
def test_heif_and_raw_files_are_refused_by_name(brand: bytes) -> None:
    data = box(b"ftyp", brand + bytes(4) + b"mif1heic") + box(b"meta", bytes(20)) + box(b"mdat", bytes(40))
    for look in (lambda: Received(data).image, lambda: Received(data).size, lambda: Received(data).clip):
        with pytest.raises(DataError, match=r"but got (a picture in HEIF|a raw file).*convert it to JPEG or PNG"):
            look()


def test_a_picture_that_calls_itself_a_video_is_known_by_its_boxes() -> None:
    start = box(b"ftyp", b"isom" + bytes(4) + b"isommp42")
    assert "HEIF" in picture_of_boxes(start + box(b"meta", bytes(20)))
    assert picture_of_boxes(start + box(b"moov", bytes(20)) + box(b"meta", bytes(20))) == ""
    assert picture_of_boxes(start) == ""


def test_an_avif_that_shows_a_part_of_its_pixels_is_refused() -> None:
    data = saved(picture(), "AVIF")
    end = int.from_bytes(data[:4], "big")
    data = data[:end] + box(b"clap", bytes(32)) + data[end:]
    with pytest.raises(DataError, match="expected a whole picture, but this AVIF shows a part of its pixels only"):
        open_image(data)


def test_what_else_is_upright_stays_the_same_object() -> None:
    image = picture()
    assert upright(image) is image
    assert to_rgb(image) is image


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"II*\0" + bytes(20), "a TIFF or camera raw file"),
        (b"\0\0\1\0\1\0" + bytes(20), "an ICO"),
        (b"RIFF\0\0\0\0AVI LIST", "an AVI"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS"),
    ],
)
def test_foreign_files_are_named(data: bytes, name: str) -> None:
    with pytest.raises(DataError, match=rf"expected an encoded image \(JPEG, PNG, .*MPEG-TS\), but got {name}"):
        decode(data)


def test_a_jpeg_of_12_bits_is_named() -> None:
    data = bytearray(saved(picture(), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 1], data[at + 4] = 0xC1, 12
    with pytest.raises(DataError, match="but got a JPEG of 12 bits a channel, where 8 are read"):
        decode(bytes(data))
