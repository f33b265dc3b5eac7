"""How well JPEGs that were saved twice are sensed, for docs/distortions.md: ``python -m tests.sensing_report``.

Choose thresholds on CamVid's ``val``, report on ``test``; ``streets`` needs no data. ``--accuracy`` adds the mIoU of
the supplied base on frames saved once and twice.
"""

import argparse
import io
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import product

from PIL import Image
from rich.console import Console
from rich.table import Table

from gearnn.datasets import Camera, DistortedDataset, Sample, open_split
from gearnn.datasets.streets import Streets
from gearnn.distortions import decode, encode, sense
from gearnn.evaluate import evaluate
from gearnn.levels import DistortionLevel
from gearnn.machine.compute import Compute
from gearnn.models import load_model
from gearnn.problems.segmentation import SemanticSegmentation
from tests.conftest import SHARED

FIRST, LAST = (5, 10, 20, 30, 50, 70, 90), (30, 50, 70, 90, 95)
CAMERA = Camera(size=(240, 180), resample="box")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", default="test", help="test or val of CamVid, or streets")
    parser.add_argument("--every", type=int, default=1, help="every n-th frame")
    parser.add_argument("--accuracy", action="store_true", help="the base's mIoU as well")
    arguments = parser.parse_args()
    frames = list(_frames(arguments.split))[:: arguments.every]
    console = Console(width=120)
    console.print(f"{arguments.split}: {len(frames)} frames of {frames[0].width}x{frames[0].height}")
    console.print(pairs(frames))
    console.print(false_alarms(frames))
    console.print(cost(frames[0]))
    if arguments.accuracy:
        console.print(accuracy(arguments.split, arguments.every))


def pairs(frames: list[Image.Image]) -> Table:
    """Of frames saved at one quality, then at another: the share that is found, and the first quality sensed."""
    table = Table("first \\ last", *map(str, LAST), title="found, and the first quality sensed (median, range)")
    for first in FIRST:
        table.add_row(str(first), *(_pair(frames, first, last) if first < last else "-" for last in LAST))
    return table


def false_alarms(frames: list[Image.Image]) -> str:
    """How many frames saved once are taken as saved twice, over all qualities and chroma formats; each frame at ten."""
    alarms = saved = 0
    for number, frame in enumerate(frames):
        for quality in range(1 + number % 10, 101, 10):
            alarms += bool(sense(_saved(frame, quality, subsampling=number % 3)).note)
            saved += 1
    return f"saved once, taken as saved twice: {alarms} of {saved}"


def cost(frame: Image.Image) -> str:
    """Milliseconds of a core that the closer look takes, and decoding takes; median of 50, single thread."""
    lines = []
    sizes, levels = (frame.size, (640, 480), (2048, 1024)), ("jpeg:quality=90", "jpeg:quality=10+jpeg:quality=90")
    for size, level in product(sizes, levels):
        data = encode(frame.resize(size), level)
        looks = [data[:-2] + bytes((n, 0)) + data[-2:] for n in range(51)]  # equal bytes would come from the cache
        closely = [_milliseconds(lambda one=one: sense(one)) for one in looks][1:]
        decoding = [_milliseconds(lambda one=one: decode(one)) for one in looks][1:]
        lines.append(
            f"{size[0]}x{size[1]}, {level}: closer look {statistics.median(closely):.1f} ms, "
            f"decoding {statistics.median(decoding):.1f} ms"
        )
    return "\n".join(lines)


class Every:
    """Every n-th frame of a dataset."""

    def __init__(self, samples: DistortedDataset, every: int) -> None:
        self.samples, self.every = samples, every

    def __len__(self) -> int:
        return len(self.samples) // self.every

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index * self.every]


def accuracy(split: str, every: int) -> Table:
    """The base's mIoU on frames saved once and twice."""
    base = load_model("drn_d_22", 11, SHARED / "models" / "drn_d_22_camvid.safetensors")
    problem = SemanticSegmentation(
        num_classes=11, ignore_index=11, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    frames = open_split("camvid", SHARED / "data" / "camvid", split, CAMERA)
    table = Table("saved at", "mIoU of the base")
    for text in ("10", "10 90", "20", "20 70", "90", "90 10"):
        level = DistortionLevel.parse("+".join(f"jpeg:quality={quality}" for quality in text.split()))
        score = evaluate(
            base, Every(DistortedDataset(frames, level), every), problem, compute=Compute.resolve("cpu", "fp32")
        )
        table.add_row(text.replace(" ", ", then "), f"{score.primary:.1f}")
    return table


def _frames(split: str) -> Iterator[Image.Image]:
    if split == "streets":
        data = Streets("sensing", 50, 0, Camera(size=(240, 180)))
        return (data.frame(index) for index in range(len(data)))
    camvid = open_split("camvid", SHARED / "data" / "camvid", split, CAMERA)
    return (camvid.frame(index) for index in range(len(camvid)))


def _pair(frames: list[Image.Image], first: int, last: int) -> str:
    found = []
    for frame in frames:
        sensed = sense(encode(frame, f"jpeg:quality={first}+jpeg:quality={last}"))
        if sensed.note:
            found.append(int(dict(sensed.level.parts[0].parameters)["quality"]))
    if not found:
        return "0 %"
    return f"{100 * len(found) / len(frames):.0f} %: {statistics.median_low(found)} ({min(found)}-{max(found)})"


def _saved(frame: Image.Image, quality: int, subsampling: int) -> bytes:
    buffer = io.BytesIO()
    frame.save(buffer, format="JPEG", quality=quality, subsampling=subsampling)
    return buffer.getvalue()


def _milliseconds(call: Callable[[], object]) -> float:
    started = time.process_time()
    call()
    return 1e3 * (time.process_time() - started)


if __name__ == "__main__":
    main()
