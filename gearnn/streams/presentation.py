"""A DASH presentation of a dataset's frames, one representation a level, with the truth beside it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from gearnn.datasets.frames import FrameDataset
from gearnn.distortions import encode, encode_clip, kind_of, suffix_of
from gearnn.errors import StreamError
from gearnn.levels import DistortionLevel
from gearnn.store.outputs import Outputs
from gearnn.streams.media import as_transport_stream

MANIFEST = "manifest.mpd"


@dataclass(frozen=True, kw_only=True)
class Written:
    """A presentation in a folder.

    Attributes:
        manifest: its file; the truth is in ``truth`` beside it, see :class:`gearnn.streams.Truth`.
        segments: number of them.
        bandwidths: level -> kbit/s that it needs.
    """

    manifest: Path
    segments: int
    bandwidths: dict[DistortionLevel, float]


def write_presentation(
    frames: FrameDataset,
    levels: Sequence[DistortionLevel],
    folder: Path,
    *,
    segment_frames: int = 1,
    frame_rate: Fraction = Fraction(25),
    on_segment: Callable[[int, int], None] | None = None,
) -> Written:
    """Write a presentation.

    Args:
        frames: undistorted, in order; what is left after whole segments is dropped.
        levels: a representation each; levels of images, such as JPEG, need segments of one frame.
        folder: for the manifest, a folder a level, and ``truth``.
        segment_frames: frames of a segment.
        frame_rate: frames a second.
        on_segment: called with (segments done, segments in all).

    Raises:
        StreamError: a level that cannot be a representation, or too few frames.
        OutputError: a file of the presentation would take the place of one that GearNN did not write.
    """
    count = len(frames) // segment_frames
    if count < 1:
        raise StreamError(f"expected at least {segment_frames} frames for one segment, but got {len(frames)}")
    for level in levels:
        if not _is_clip(level) and segment_frames > 1:
            raise StreamError(f"{level}: expected segments of one frame, because its frames are images, not clips")
    outputs = Outputs(folder)
    outputs.check(MANIFEST)
    for name in (*(level.slug for level in levels), "truth"):
        outputs.check_folder(name)
    largest = dict.fromkeys(levels, 0)
    for number in range(count):
        images = [frames.frame(number * segment_frames + k) for k in range(segment_frames)]
        for level in levels:
            data = _segment(images, level, Fraction(number * segment_frames) / frame_rate, frame_rate)
            with outputs.fresh(f"{level.slug}/{number:05d}{_suffix(level)}") as path:
                path.write_bytes(data)
            largest[level] = max(largest[level], len(data))
        for k in range(segment_frames):
            _write_truth(frames, number * segment_frames + k, outputs, f"{number:05d}-{k}.png")
        if on_segment is not None:
            on_segment(number + 1, count)
    seconds = segment_frames / frame_rate
    bandwidths = {level: float(8 * size / seconds) for level, size in largest.items()}
    with outputs.fresh(MANIFEST) as path:
        path.write_text(_manifest(levels, bandwidths, seconds, count))
    return Written(
        manifest=folder / MANIFEST, segments=count, bandwidths={lv: b / 1000.0 for lv, b in bandwidths.items()}
    )


def _is_clip(level: DistortionLevel) -> bool:
    return bool(level.parts) and kind_of(level.parts[-1].kind).encode_clip is not None


def _suffix(level: DistortionLevel) -> str:
    return ".ts" if _is_clip(level) else suffix_of(level)


def _segment(images: Sequence[Image.Image], level: DistortionLevel, start: Fraction, frame_rate: Fraction) -> bytes:
    if not _is_clip(level):
        return encode(images[0], level)
    return as_transport_stream(encode_clip(images, level), frame_rate, float(start))


def _write_truth(frames: FrameDataset, index: int, outputs: Outputs, name: str) -> None:
    masks = {"masks": np.asarray(frames.target(index))}
    numbers = getattr(frames, "instances", None)
    if numbers is not None:
        masks["instances"] = np.asarray(numbers(index))
    for kind, mask in masks.items():
        image = Image.fromarray(mask.astype(np.uint8 if mask.max(initial=0) < 256 else np.uint16))
        with outputs.fresh(f"truth/{kind}/{name}") as path:
            image.save(path)


def _manifest(
    levels: Sequence[DistortionLevel], bandwidths: dict[DistortionLevel, float], seconds: Fraction, count: int
) -> str:
    """Written by jinja, as the page of a benchmark is."""
    from jinja2 import Environment, PackageLoader

    template = Environment(loader=PackageLoader("gearnn"), autoescape=True).get_template("manifest.mpd")
    kinds = [
        {
            "id": level.slug,
            "bandwidth": round(bandwidths[level]),
            "mime": "video/mp2t" if _is_clip(level) else "image/jpeg" if _suffix(level) == ".jpg" else "image/png",
            "suffix": _suffix(level),
        }
        for level in levels
    ]
    return template.render(
        representations=kinds,
        duration=f"{float(seconds * count):.6f}",
        timescale=seconds.denominator,
        each=seconds.numerator,
    )
