"""How decoded frames of videos are shown: turned by quarters as they say, and what they are not corrected for.

Nothing here imports PyAV; its frames are taken as they come.
"""

import logging
import math
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from gearnn.errors import DataError

_TURNS = {  # signs of a, b, c, d of a display matrix, which shows a pixel (p, q) at (a p + c q, b p + d q)
    (1, 0, 0, 1): None,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}
_ONE = 1 << 16  # 1.0 in a display matrix
_ONE_DEGREE = math.radians(1)
SIDEWAYS = set(list(_TURNS.values())[4:])
"""Turns that exchange width and height."""

_HIGH_RANGE = {16: "PQ", 18: "HLG"}  # AVColorTransferCharacteristic


class Turning:
    """Follows how the frames of one video are to be turned; a key frame says it for those up to the next."""

    def __init__(self) -> None:
        self._turn: Image.Transpose | None = None

    def __call__(self, frame: Any) -> Image.Transpose | None:
        """What makes the next frame, a decoded one of PyAV's, be seen as it is meant; None for nothing.

        Raises:
            DataError: it is turned by anything but quarters.
        """
        matrix = next((bytes(d) for d in frame.side_data if d.type.name == "DISPLAYMATRIX"), None)
        if matrix is not None or frame.key_frame:
            self._turn = None if matrix is None else _turn(*np.frombuffer(matrix, np.int32)[[0, 1, 3, 4]].tolist())
        return self._turn


def _turn(a: int, b: int, c: int, d: int) -> Image.Transpose | None:
    if a == b == c == d == 0:  # some writers leave the matrix empty
        return None
    scales = math.hypot(a, b) or math.inf, math.hypot(c, d) or math.inf
    turned = a / scales[0], b / scales[0], c / scales[1], d / scales[1]
    quarters = next((q for q in _TURNS if max(abs(x - y) for x, y in zip(turned, q, strict=True)) < _ONE_DEGREE), None)
    if quarters is None:
        raise DataError(
            f"expected a video that is shown upright or turned by quarters, but its display matrix "
            f"[{a / _ONE:.3g} {b / _ONE:.3g}; {c / _ONE:.3g} {d / _ONE:.3g}] turns it by "
            f"{math.degrees(math.atan2(-b, a)):.0f} degrees"
        )
    return _TURNS[quarters]


def picture_of(frame: Any, turn: Image.Transpose | None) -> Image.Image:
    """A decoded frame of PyAV's as it is shown, RGB."""
    picture: Image.Image = frame.to_image()
    return picture if turn is None else picture.transpose(turn)


def note_oddities(frame: Any, aspect: Any) -> None:
    """Log, once for each, what frames are not corrected for.

    Args:
        frame: a decoded one of PyAV's.
        aspect: width of a pixel by its height, a fraction; None or 0 where it is not stated.
    """
    if aspect and aspect != 1:
        _note(f"a video's pixels are {aspect} as wide as high; frames hold them as they are, with shapes squeezed")
    if frame.interlaced_frame:
        _note("a video is interlaced; frames hold both fields, which moving edges show")
    if frame.color_trc in _HIGH_RANGE:
        _note(f"a video is in high dynamic range ({_HIGH_RANGE[frame.color_trc]}), which frames are not mapped from")


@cache
def _note(text: str) -> None:
    logging.getLogger("gearnn").warning(text)
