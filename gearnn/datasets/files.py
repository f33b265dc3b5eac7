"""Image files of datasets: finding them, pairing frames with labels, reading them within limits."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from gearnn.distortions import stills
from gearnn.errors import DataError

_PICTURES = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".ppm", ".pgm", ".avif", ".heic", ".heif",
             ".hif", ".tif", ".tiff", ".gif", ".jp2", ".jxl"}  # fmt: skip


def images_in(folder: Path, *, dataset: str, suffixes: tuple[str, ...] = (".png", ".jpg", ".jpeg")) -> list[Path]:
    """The image files of a folder, sorted; hidden files are passed over.

    Raises:
        DataError: there is no such folder, no image in it, or one of another format, which would be left out.
    """
    if not folder.is_dir():
        raise DataError(f"data {dataset}: expected the folder {folder}, but it does not exist")
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    found = [path for path in files if path.suffix.lower() in suffixes]
    other = next((path for path in files if path.suffix.lower() in _PICTURES - set(suffixes)), None)
    if other is not None:
        raise DataError(
            f"data {dataset}: expected images ({', '.join(suffixes)}) in {folder}, but got {other.name}, which would "
            f"be left out; convert it, or move it away"
        )
    if not found:
        raise DataError(f"data {dataset}: expected images ({', '.join(suffixes)}) in {folder}, but it has none")
    return found


def paired(frames: Sequence[Path], label_of: Callable[[Path], Path], *, dataset: str) -> list[Path]:
    """The label file of every frame.

    Raises:
        DataError: the first frame without one.
    """
    labels = [label_of(frame) for frame in frames]
    for frame, label in zip(frames, labels, strict=True):
        if not label.is_file():
            raise DataError(f"data {dataset}: frame {frame} has no label, expected {label}")
    return labels


def open_image(path: Path) -> Image.Image:
    """Read and fully decode an image file; upright, as its EXIF says.

    Raises:
        DataError: there is no such file, it is truncated or no image, or has more pixels than are decoded.
    """
    image = _opened(path, _content(path))
    try:
        image.load()
    except Exception as error:  # Pillow's decoders raise a dozen kinds of errors on damaged files
        raise DataError(f"image {path}: expected a readable image, but got: {error}") from error
    return stills.upright(image)


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of the upright image, from the file's header; errors as for :func:`open_image`."""
    return stills.upright_size(_opened(path, _content(path)))


def image_orientation(path: Path) -> int:
    """How the pixels of a file lie, 1 upright; errors as for :func:`open_image`."""
    return stills.orientation_of(_opened(path, _content(path)))


def image_digest(path: Path) -> str:
    """What determines the upright image: the file's sha256, and its orientation where it is not stored upright."""
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    try:
        orientation = stills.orientation_of(_opened(path, content))
    except DataError:  # whoever opens it says so
        return digest
    return digest if orientation == 1 else f"{digest} orientation {orientation}"


def mask_digest(path: Path) -> bytes:
    """The same as bytes, of a mask."""
    digest, _, turned = image_digest(path).partition(" ")
    return bytes.fromhex(digest) + turned.encode()


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"image {path}: no such file") from None
    except OSError as error:
        raise DataError(f"image {path}: expected a readable image, but got: {error.strerror}") from error


def _opened(path: Path, content: bytes) -> Image.Image:
    """The image with its header read."""
    try:
        image = stills.open_image(content)
    except DataError as error:
        raise DataError(f"image {path}: expected a readable image, but got: {error}") from error
    image.filename = str(path)  # type: ignore[attr-defined]  # for what is logged about it
    return image
