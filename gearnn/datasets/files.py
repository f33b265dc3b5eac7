"""Image files of datasets: finding them, pairing frames with labels, reading them within limits."""

from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from gearnn.distortions import received
from gearnn.errors import DataError


def images_in(folder: Path, *, dataset: str, suffixes: tuple[str, ...] = (".png", ".jpg", ".jpeg")) -> list[Path]:
    """The image files of a folder, sorted.

    Raises:
        DataError: there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise DataError(f"data {dataset}: expected the folder {folder}, but it does not exist")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
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
    """Read and fully decode an image file.

    Raises:
        DataError: there is no such file, it is truncated or no image, or has more pixels than are decoded.
    """
    image = _opened(path)
    try:
        image.load()
    except Exception as error:  # Pillow's decoders raise a dozen kinds of errors on damaged files
        raise DataError(f"image {path}: expected a readable image, but got: {error}") from error
    return image


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of an image file, from its header; errors as for :func:`open_image`."""
    return _opened(path).size


def _opened(path: Path) -> Image.Image:
    """The image with its header read."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"image {path}: no such file") from None
    except OSError as error:
        raise DataError(f"image {path}: expected a readable image, but got: {error.strerror}") from error
    try:
        return received.open_image(content)
    except DataError as error:
        raise DataError(f"image {path}: expected a readable image, but got: {error}") from error
