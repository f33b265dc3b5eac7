"""Frames a second of filling the cache against a bare loop over the same Pillow and PyAV calls, for `make bench`.

A script of its own, because worker processes import the main module anew, and this one is light:
``python -m tests.bench.distorting LEVEL FRAMES TURNS`` prints the seconds of both, turn by turn, as JSON.
"""

import io
import json
import multiprocessing
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
from PIL import Image, ImageDraw

from gearnn.datasets import Camera, Options, open_split
from gearnn.datasets.cache import Job, fill_cache
from gearnn.datasets.streets import Streets
from gearnn.levels import DistortionLevel

SIZE = (1280, 720)
PROCESSES = 2


def bare_jpeg(path: Path) -> int:
    """Read a frame and compress it, with nothing of GearNN's."""
    with Image.open(path) as image:
        frame = image.convert("RGB")
    buffer = io.BytesIO()
    frame.save(buffer, format="JPEG", quality=20)
    return len(buffer.getvalue())


def bare_h264(path: Path) -> int:
    """Read a frame and encode it as a clip of one frame, with nothing of GearNN's."""
    with Image.open(path) as image:
        frame = image.convert("RGB")
    codec = av.CodecContext.create("libx264", "w")
    codec.width, codec.height, codec.pix_fmt, codec.time_base = *frame.size, "yuv420p", Fraction(1, 25)
    codec.thread_count, codec.options = 1, {"crf": "23", "preset": "medium"}
    picture = av.VideoFrame.from_image(frame).reformat(format="yuv420p", interpolation="BICUBIC")
    return sum(len(bytes(packet)) for packet in [*codec.encode(picture), *codec.encode(None)])


BARE = {"jpeg:quality=20": bare_jpeg, "h264:crf=23": bare_h264}


def make_frames(root: Path, number: int) -> list[Path]:
    """Photos with a number on each, so that no two are equal."""
    scenes = Streets("bench", 8, 0, Camera(size=SIZE, resample="bicubic"))
    for folder in ("images", "masks"):
        (root / "train" / folder).mkdir(parents=True)
    Image.new("L", SIZE).save(root / "mask.png")
    for index in range(number):
        frame = scenes.frame(index % 8)
        ImageDraw.Draw(frame).text((20, 20), str(index))
        frame.save(root / "train" / "images" / f"{index:04d}.png", compress_level=1)
        (root / "train" / "masks" / f"{index:04d}.png").hardlink_to(root / "mask.png")
    return sorted((root / "train" / "images").iterdir())


def main(text: str, number: int, turns: int) -> None:
    """Measure in turns."""
    seconds: dict[str, list[float]] = {"bare": [], "filling": []}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        paths = make_frames(root, number)
        dataset = open_split("folder", root, "train", Camera(), Options(class_names=("all",)))
        job = Job(dataset=dataset, levels=(DistortionLevel.parse(text),))
        for turn in range(turns):
            started = time.perf_counter()
            with ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn")) as pool:
                list(pool.map(BARE[text], paths, chunksize=8))
            seconds["bare"].append(time.perf_counter() - started)
            started = time.perf_counter()
            fill_cache([job], root / f"cache-{turn}", processes=PROCESSES)
            seconds["filling"].append(time.perf_counter() - started)
    sys.stdout.write(json.dumps(seconds))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
