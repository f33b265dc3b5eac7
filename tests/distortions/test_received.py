import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gearnn.datasets import Camera
from gearnn.datasets.files import open_image
from gearnn.distortions import MAX_PIXELS, Received, decode, encode
from gearnn.distortions.stills import to_rgb
from gearnn.errors import DataError


def png_that_declares(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises a large frame."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(8193, 8192), (1, MAX_PIXELS + 1), (60_000, 60_000)])
def test_decompression_bombs_are_refused_by_their_header(size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=r"expected a frame of at most 67,108,864 pixels|decompression bomb"):
        decode(png_that_declares(*size))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "PPM"])
def test_image_files_are_decoded_to_rgb(photo: Image.Image, kind: str) -> None:
    buffer = io.BytesIO()
    photo.save(buffer, format=kind)
    received = Received(buffer.getvalue())
    assert received.size == photo.size
    assert received.image.mode == "RGB"
    assert received.size == photo.size


def test_formats_that_run_programs_or_are_not_of_cameras_are_refused() -> None:
    with pytest.raises(DataError, match="expected an encoded image"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n")


def test_truncated_files_are_typed_errors(photo: Image.Image) -> None:
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "PPM"):
        buffer = io.BytesIO()
        photo.save(buffer, format=kind)
        data = buffer.getvalue()
        with pytest.raises(DataError, match=r"expected an encoded image, but \d+ bytes that start with"):
            decode(data[: len(data) // 2])


def test_the_message_names_no_object_of_python(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        decode(b"nothing")
    assert "0x" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_grey_values_of_16_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    got = np.asarray(decode((tmp_path / "ramp.png").read_bytes()))
    assert np.array_equal(got[..., 0], np.arange(256, dtype=np.uint8).reshape(16, 16))
    assert np.array_equal(np.asarray(Camera().frame(open_image(tmp_path / "ramp.png"))), got)
    with pytest.raises(DataError, match="expected an image of 8 or 16 bits a channel, but got Pillow's mode F"):
        to_rgb(Image.new("F", (2, 2)))


@pytest.mark.parametrize("mode", ["La", "F", "I"])
def test_pil_images_of_modes_without_a_meaning_are_refused(mode: str) -> None:
    with pytest.raises(DataError, match=f"mode {mode}"):
        Received.of_image(Image.new(mode, (2, 2)))


def test_pil_images_that_cannot_be_decoded_are_refused_at_once(photo: Image.Image) -> None:
    data = encode(photo, "jpeg:quality=90")
    with pytest.raises(DataError, match="expected a readable frame, but a PIL image of mode RGB gave: image file is"):
        Received.of_image(Image.open(io.BytesIO(data[: len(data) // 2])))
    closed = Image.open(io.BytesIO(data))
    closed.close()
    with pytest.raises(DataError, match="expected a readable frame, but a PIL image of mode RGB gave: "):
        Received.of_image(closed)
    with pytest.raises(DataError, match="expected a frame with pixels, but got a PIL image of 0x3"):
        Received.of_image(Image.new("RGB", (0, 3)))
    assert Received.of_image(Image.open(io.BytesIO(data))).image.tobytes() == decode(data).tobytes()


def test_files_of_datasets_are_read_within_the_same_limits(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png_that_declares(60_000, 6_000))
    with pytest.raises(DataError, match=r"bomb.png: expected a readable image, but got: expected a"):
        open_image(tmp_path / "bomb.png")
    (tmp_path / "damaged.png").write_bytes(png_that_declares(4, 4)[:20])
    with pytest.raises(DataError, match=r"damaged.png: expected a readable image"):
        open_image(tmp_path / "damaged.png")
