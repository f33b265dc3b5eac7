"""Masks as colours, for people."""

import numpy as np
from PIL import Image

_PALETTE = np.array(
    [[70, 130, 180], [120, 110, 105], [240, 200, 60], [128, 64, 128], [244, 130, 200], [107, 142, 35], [220, 20, 60],
     [190, 153, 153], [0, 0, 142], [255, 90, 40], [119, 11, 32], [0, 200, 180], [250, 170, 30], [90, 60, 170],
     [150, 220, 120], [60, 60, 60], [180, 230, 255], [200, 90, 0], [0, 110, 60], [255, 255, 140]],
    dtype=np.uint8,
)  # fmt: skip


def overlay(
    frame: np.ndarray,
    mask: np.ndarray,
    *,
    black: int | None = None,
    clear: int | None = None,
    opacity: float = 0.75,
) -> np.ndarray:
    """A mask's colours over the frame that it belongs to.

    Args:
        frame: uint8 [h, w, 3]; scaled to the mask's size where it is smaller.
        mask: one index a pixel, [H, W].
        black: index of pixels without truth.
        clear: index of pixels without an object, where the frame is seen as it is.
        opacity: of the colours, 0 to 1.

    Returns:
        uint8 [H, W, 3].
    """
    height, width = mask.shape
    image = Image.fromarray(frame)
    below = np.asarray(image if image.size == (width, height) else image.resize((width, height)), np.float32)
    colours = _PALETTE[mask.astype(np.int64) % len(_PALETTE)].astype(np.float32)
    if black is not None:
        colours[mask == black] = 0.0
    if clear is not None:
        colours[mask == clear] = below[mask == clear]
    return ((1.0 - opacity) * below + opacity * colours).round().astype(np.uint8)
