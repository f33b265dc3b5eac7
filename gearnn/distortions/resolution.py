"""H.264 resolution scaling (section 4.3): a smaller frame, encoded by libx264 at CRF 18 and decoded again.

The DNN sees the smaller frame; predictions are scaled up to the label's size and scored there. At scale
1.0 the base itself runs. A frame's scale is its size beside that of undistorted frames, which the
calibration holds.
"""

import math
import re
from collections.abc import Mapping, Sequence

from PIL import Image

from gearnn.distortions import video, x264
from gearnn.distortions.kinds import Kind, Parameter, Reference, Size, Values, written
from gearnn.distortions.received import Received
from gearnn.errors import DataError, LevelError

CRF, GOP, PRESET, PIXELS = 18.0, 250, "medium", "yuv420p"
PAPER_SIZE = (2048, 1024)
LOW = 0.05


def scaled_size(size: Size, scale: float) -> Size:
    """(width, height) of a scaled frame: even numbers, because 4:2:0 stores colours in pairs; 1.0 keeps the size.

    >>> scaled_size((2048, 1024), 0.390625), scaled_size((240, 180), 0.25)
    ((800, 400), (60, 46))
    """
    if scale == 1.0:
        return size
    width, height = (max(2, 2 * math.floor(side * scale / 2 + 0.5)) for side in size)
    return width, height


def encode_clip(frames: Sequence[Image.Image], *, scale: float) -> bytes:
    """Scale a sequence and compress it.

    Args:
        frames: RGB, all of one size.
        scale: of width and height, up to 1.0.
    """
    size = scaled_size(frames[0].size, scale)
    return x264.encode_h264(frames, crf=CRF, gop=GOP, preset=PRESET, pixels=PIXELS, size=size)


def encode(image: Image.Image, *, scale: float) -> bytes:
    """Scale a still frame and compress it as a clip of one frame."""
    return encode_clip([image], scale=scale)


def distort(image: Image.Image, *, scale: float) -> Image.Image:
    """The smaller frame as its receiver sees it; RGB in, RGB of :func:`scaled_size` out."""
    return video.decode_clip(encode(image, scale=scale))[-1]


def measure(received: Received) -> tuple[float, ...]:
    """log2 of the frame's width and height in pixels."""
    width, height = received.size
    return math.log2(width), math.log2(height)


def compare(features: Sequence[float], references: Sequence[Reference]) -> tuple[Values, float]:
    """The scale of a frame, from its size beside that of undistorted frames.

    Returns:
        (values, misfit): those of a calibrated level whose frames have this very size; else the scale
        itself. The misfit is how far, in octaves, width and height are from one common scale; 0.0 where
        rounding of either by a pixel explains it.

    Raises:
        DataError: the calibration frames of a level differ in size.
    """
    if any(reference.covariance[side][side] > 1e-9 for reference in references for side in (0, 1)):
        raise DataError(
            "resolution: the calibration frames of a level differ in size, so a frame's does not say its scale"
        )
    same = [r for r in references if max(abs(a - b) for a, b in zip(features, r.mean, strict=True)) < 1e-9]
    if same:
        return max(same, key=lambda reference: KIND.strength(reference.values)).values, 0.0
    original = next(r.mean for r in references if KIND.is_pristine(r.values))
    octaves = [a - b for a, b in zip(features, original, strict=True)]
    mean = sum(octaves) / len(octaves)
    scale = min(max(2.0**mean, LOW), 1.0)
    misfit = 0.0 if _is_scaled(features, original) else max(abs(value - math.log2(scale)) for value in octaves)
    return {"scale": round(scale, 6)}, misfit


def _is_scaled(features: Sequence[float], original: Sequence[float]) -> bool:
    """Whether one scale makes this size from that of undistorted frames, to a pixel; sizes in log2."""
    sizes = [(2.0**side, 2.0**whole) for side, whole in zip(features, original, strict=True)]
    smallest = max(LOW, *((side - 1.0) / whole for side, whole in sizes))
    largest = min(1.0, *((side + 1.0) / whole for side, whole in sizes))
    return bool(smallest <= largest + 1e-9)


def shorthand(text: str, frame_size: Size | None) -> Mapping[str, str] | None:
    """Read ``0.5``, ``320x180/640x360``, or ``320x180`` beside the plan's frame size, else the paper's 2048x1024."""
    if re.fullmatch(r"[0-9.]+", text):
        return {"scale": text}
    sizes = re.fullmatch(r"(\d{1,5})x(\d{1,5})(?:/(\d{1,5})x(\d{1,5}))?", text)
    if sizes is None:
        return None
    width, height = int(sizes[1]), int(sizes[2])
    original = (int(sizes[3]), int(sizes[4])) if sizes[3] else frame_size or PAPER_SIZE
    if min(original) < 1:
        raise LevelError(f"level 'resolution:{text}': expected the size of undistorted frames, such as 640x360")
    scale = _scale((width, height), original)
    if any(abs(side - whole * scale) > 2.0 for side, whole in zip((width, height), original, strict=True)):
        raise LevelError(
            f"level 'resolution:{text}': expected the shape of undistorted frames, {original[0]}x{original[1]}, "
            f"but got {width}x{height}; write resolution:scale=..., or {width}x{height}/WIDTHxHEIGHT with their size"
        )
    return {"scale": written(scale)}


def _scale(size: Size, original: Size) -> float:
    """The exact ratio where six digits hold it, else the shortest number that gives this very size."""
    ratio = size[0] / original[0]
    if ratio == size[1] / original[1] == round(ratio, 6):
        return ratio
    mean = (ratio + size[1] / original[1]) / 2
    rounded = [round(mean, digits) for digits in range(2, 7)]
    return next((scale for scale in rounded if scaled_size(original, scale) == size), rounded[-1])


def _distance(a: Values, b: Values) -> float:
    """In octaves: 0.25 is as far from 0.5 as 0.5 is from 1.0."""
    return abs(math.log2(float(a["scale"])) - math.log2(float(b["scale"])))


KIND = Kind(
    name="resolution",
    parameters=(Parameter(name="scale", type=float, low=LOW, high=1.0, unit="of width and height"),),
    pristine={"scale": 1.0},
    distort=distort,
    encode=encode,
    encode_clip=encode_clip,
    suffix=".h264",
    implies=(f"h264:crf={CRF:g}",),
    features=("log2 width", "log2 height"),
    measure=measure,
    compare=compare,
    max_misfit=0.1,  # another shape: by 15 % of width over height
    distance=_distance,
    strength=lambda values: -float(values["scale"]),
    shorthand=shorthand,
    version=lambda: f"{x264.version()} crf {CRF:g} {PRESET} {PIXELS}",
)
