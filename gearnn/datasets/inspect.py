"""What a person wants to know of a dataset before training on it: counts, sizes, classes, and what levels do."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gearnn.datasets.distorted import DistortedDataset
from gearnn.datasets.frames import FrameDataset
from gearnn.datasets.instances import Instances
from gearnn.distortions import Received, kind_of, sense
from gearnn.levels import DistortionLevel

_SHEET_FRAMES, _SHEET_COLUMNS, _CELL_WIDTH, _GAP, _HEAD, _CAPTION = 12, 4, 320, 8, 30, 18


@dataclass(frozen=True, kw_only=True)
class SplitFacts:
    """What one split holds.

    Attributes:
        num_frames: frames.
        sizes: (width, height) of frames in pixels -> how many.
        counted: what classes are counted by: ``pixels``, ``instances`` or ``frames``.
        class_shares: name of a class -> share of what is counted and has a truth.
        void_share: share of pixels without truth.
        num_counted: pixels, instances or frames with truth.
        empty: names of frames without any instance.
    """

    num_frames: int
    sizes: dict[tuple[int, int], int]
    counted: str
    class_shares: dict[str, float]
    void_share: float
    num_counted: int
    empty: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LevelFacts:
    """What one level does to some frames of a split; means over them.

    Attributes:
        level: the level.
        size: (width, height) of the first frame as received.
        bytes_per_frame: of the encoded frame or clip.
        bits_per_pixel: of undistorted pixels.
        psnr_db: peak signal to noise ratio of the received frame, scaled back to the sensor's size, against
            the undistorted one; infinite for equal frames.
        sensed: what the bytes of the first frame say, or that levels are compared or must be given.
    """

    level: str
    size: tuple[int, int]
    bytes_per_frame: float
    bits_per_pixel: float
    psnr_db: float
    sensed: str


def describe_split(dataset: FrameDataset, on_done: Callable[[int, int], None] | None = None) -> SplitFacts:
    """Read a split whole and count.

    Raises:
        DataError: the first file that cannot be used.
    """
    counts = np.zeros(max(256, len(dataset.class_names)), dtype=np.int64)
    sizes: Counter[tuple[int, int]] = Counter()
    empty, counted = [], "pixels"
    for index in range(len(dataset)):
        sizes[dataset.frame(index).size] += 1
        labels, counted = _labels(dataset.target(index))
        counts += np.bincount(labels, minlength=len(counts))
        if len(labels) == 0:
            empty.append(dataset.name(index))
        if on_done is not None:
            on_done(index + 1, len(dataset))
    known = counts[: len(dataset.class_names)]
    shares = known / max(int(known.sum()), 1)
    return SplitFacts(
        num_frames=len(dataset),
        sizes=dict(sizes),
        counted=counted,
        class_shares=dict(zip(dataset.class_names, shares.tolist(), strict=True)),
        void_share=1.0 - float(known.sum() / max(int(counts.sum()), 1)),
        num_counted=int(known.sum()),
        empty=tuple(empty),
    )


def _labels(target: Any) -> tuple[np.ndarray, str]:
    """Classes in the truth of one frame, and what each of them is the class of."""
    if isinstance(target, Instances):
        return target.labels, "instances"
    if isinstance(target, int):
        return np.array([target]), "frames"
    return np.asarray(target).reshape(-1), "pixels"


def describe_level(samples: DistortedDataset, indices: Sequence[int]) -> LevelFacts:
    """Distort some frames and measure what the level did to them."""
    encoded = [samples.encoded(index) for index in indices]
    originals = [samples.dataset.frame(index) for index in indices]
    errors, received = [], [Received(data).image for data in encoded]
    for image, original in zip(received, originals, strict=True):
        back = image if image.size == original.size else image.resize(original.size, Image.Resampling.BICUBIC)
        errors.append(float(np.square(np.asarray(back, np.float32) - np.asarray(original, np.float32)).mean()))
    pixels = sum(original.width * original.height for original in originals)
    mean = sum(errors) / len(errors)
    return LevelFacts(
        level=str(samples.level),
        size=received[0].size,
        bytes_per_frame=sum(map(len, encoded)) / len(encoded),
        bits_per_pixel=8 * sum(map(len, encoded)) / pixels,
        psnr_db=math.inf if mean == 0 else 10 * math.log10(255**2 / mean),
        sensed=_sensed(samples.level, encoded[0]),
    )


def spread(total: int, number: int) -> list[int]:
    """At most ``number`` indices, evenly spread.

    >>> spread(10, 3), spread(2, 5)
    ([0, 3, 6], [0, 1])
    """
    count = min(total, number)
    return [index * total // count for index in range(count)]


def contact_sheet(samples: DistortedDataset, facts: LevelFacts) -> Image.Image:
    """Twelve frames of a split as the DNN receives them at a level; smaller frames are enlarged pixel by pixel."""
    indices = spread(len(samples), _SHEET_FRAMES)
    cells = [_cell(Received(samples.encoded(index)).image) for index in indices]
    height = max(cell.height for cell in cells) + _CAPTION
    rows = math.ceil(len(cells) / _SHEET_COLUMNS)
    sheet = Image.new("RGB", (_SHEET_COLUMNS * (_CELL_WIDTH + _GAP) + _GAP, rows * (height + _GAP) + _HEAD), "white")
    draw, large, small = ImageDraw.Draw(sheet), ImageFont.load_default(17), ImageFont.load_default(12)
    quality = "exact" if math.isinf(facts.psnr_db) else f"{facts.psnr_db:.1f} dB"
    title = (
        f"{facts.level}   {facts.size[0]}x{facts.size[1]}   {facts.bytes_per_frame / 1000:.1f} kB a frame   {quality}"
    )
    draw.text((_GAP, 5), title, fill="black", font=large)
    for position, (index, cell) in enumerate(zip(indices, cells, strict=True)):
        row, column = divmod(position, _SHEET_COLUMNS)
        x, y = _GAP + column * (_CELL_WIDTH + _GAP), _HEAD + row * (height + _GAP)
        sheet.paste(cell, (x, y))
        draw.text((x, y + cell.height + 1), samples.dataset.name(index), fill="dimgrey", font=small)
    return sheet


def _cell(image: Image.Image) -> Image.Image:
    size = (_CELL_WIDTH, max(1, round(image.height * _CELL_WIDTH / image.width)))
    return image.resize(size, Image.Resampling.NEAREST if image.width < _CELL_WIDTH else Image.Resampling.BOX)


def _sensed(level: DistortionLevel, data: bytes) -> str:
    """How every part of a level is found in a frame of it: what the bytes say, or that it must be compared or given."""
    found = []
    for part in level.parts:
        kind = kind_of(part.kind)
        if kind.sense is not None and part is level.parts[-1]:
            found.append(str(sense(data).level))
        elif kind.sense is None and kind.compare is not None:
            found.append(f"{part.kind} compared")
        else:
            found.append(f"{part.kind} must be given")
    return " + ".join(found)
