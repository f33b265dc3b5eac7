"""`make fuzz`: every decoder and sensor on damaged files; a typed error or an answer, within bounds, or it fails.

Inputs are real files (JPEG of several encoders, H.264 streams and containers, PNG, WebP, BMP, PPM, an
adaptor) that were cut off, had bits flipped, bytes replaced or repeated, and pieces of other files put
in. Every input is run in turn, in a process with a limit on its memory; an input that takes longer than
a minute is a hang. The seed makes a run repeatable; an input that fails is kept beside its seed.
"""

import argparse
import faulthandler
import io
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from rich.progress import track

from gearnn.adaptor import Adaptor
from gearnn.datasets import Camera
from gearnn.datasets.files import open_image
from gearnn.datasets.streets import Streets
from gearnn.distortions import Calibration, Received, Sensor, calibrate, decode, encode, encode_clip, sense
from gearnn.errors import AdaptorError, InputError
from gearnn.levels import DistortionLevel

FILES = Path(__file__).parent / "distortions" / "files"
ADDRESS_SPACE = 8 << 30
HANG_S = 60
_LEVELS = ("resolution:0.5", "brightness:factor=0.3", "jpeg:quality=10", "h264:crf=30")


class Finding(Exception):
    """An input on which something else came than an answer or a typed error."""


def seeds() -> dict[str, bytes]:
    """Real files of every format that a decoder or sensor takes."""
    photo = Streets("photo", 1, 3, Camera(size=(96, 64))).frame(0)
    found = {path.name: path.read_bytes() for path in sorted(FILES.glob("*.jpg"))}
    found["still.h264"] = encode(photo, "h264:crf=28")
    found["clip.h264"] = encode_clip([photo.rotate(angle) for angle in range(4)], "h264:crf=30,gop=2")
    found["gray444.h264"] = encode(photo, "h264:crf=28,pixels=yuv444p,preset=ultrafast")
    for container, name in (("mp4", "clip.mp4"), ("matroska", "clip.mkv"), ("mpegts", "clip.ts")):
        found[name] = _contained(photo, container)
    for kind in ("PNG", "WEBP", "BMP", "PPM"):
        buffer = io.BytesIO()
        photo.save(buffer, format=kind)
        found[f"image.{kind.lower()}"] = buffer.getvalue()
    found["adaptor.safetensors"] = _adaptor()
    return found


def mutations(content: dict[str, bytes], number: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Damaged inputs: (name of the file they came from, bytes); headers are hit more often than the rest."""
    rng = np.random.default_rng(seed)
    names = list(content)
    for index in range(number):
        name = names[index % len(names)]
        data = bytearray(content[name])
        for _ in range(int(rng.integers(1, 4))):
            data = _damage(data, content[names[int(rng.integers(len(names)))]], rng)
        yield name, bytes(data)


def _damage(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    if not data:
        return bytearray(other[:64])
    reach = len(data) if rng.random() < 0.5 else min(len(data), 800)
    at = int(rng.integers(reach))
    length = int(rng.integers(1, 64))
    kind = int(rng.integers(6))
    if kind == 0:
        return data[:at]
    if kind == 1:
        for position in rng.integers(0, reach, size=int(rng.integers(1, 9))):
            data[int(position)] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        data[at : at + length] = rng.bytes(length)
    elif kind == 3:
        data[at:at] = data[at : at + length] * int(rng.integers(1, 9))
    elif kind == 4:
        del data[at : at + length]
    else:
        start = int(rng.integers(max(1, len(other))))
        data[at : at + length] = other[start : start + length]
    return data


def targets() -> dict[str, Callable[[bytes], object]]:
    """What is fuzzed: each takes bytes."""
    photo = Streets("photo", 2, 3, Camera(size=(96, 64)))

    class Frames:
        def __init__(self, level: str) -> None:
            self.level = DistortionLevel.parse(level)

        def __len__(self) -> int:
            return len(photo)

        def encoded(self, index: int) -> bytes:
            return encode(photo.frame(index), self.level)

    kinds = ["resolution", "brightness"]
    calibration = [c for level in ("pristine", *_LEVELS[:2]) for c in calibrate(Frames(level), kinds)]
    sensor = Sensor(map(DistortionLevel.parse, _LEVELS), calibration)
    return {
        "sense": sense,
        "sensor": lambda data: sensor(Received(data)),
        "decode": decode,
        "size": lambda data: Received(data).size,
        "read": _read_as_frame,
    }


def run(number: int, seed: int, *, show: bool = False) -> Counter[str]:
    """Run inputs through every target; counts of answers and errors by type.

    Raises:
        Finding: an exception that is not typed, or an input that took too long; the input is kept.
    """
    counts: Counter[str] = Counter()
    checks = targets()
    inputs = mutations(seeds(), number, seed)
    for index, (name, data) in enumerate(track(inputs, total=number, disable=not show)):
        for target, call in checks.items():
            counts[_try(target, call, data, f"{name}, input {index} of seed {seed}")] += 1
        if name.endswith(".safetensors"):
            counts[_try("adaptor", _load_adaptor, data, f"{name}, input {index} of seed {seed}")] += 1
    return counts


def _try(target: str, call: Callable[[bytes], object], data: bytes, origin: str) -> str:
    started = time.monotonic()
    faulthandler.dump_traceback_later(2 * HANG_S, exit=True)
    try:
        call(data)
        outcome = "answer"
    except (InputError, AdaptorError) as error:
        outcome = type(error).__name__
    except Exception as error:
        raise Finding(f"{target}: {type(error).__name__}: {error}; {origin}, kept in {_keep(data)}") from error
    finally:
        faulthandler.cancel_dump_traceback_later()
    if time.monotonic() - started > HANG_S:
        raise Finding(f"{target}: took {time.monotonic() - started:.0f} s; {origin}, kept in {_keep(data)}")
    return f"{target}: {outcome}"


def _keep(data: bytes) -> str:
    with tempfile.NamedTemporaryFile(prefix="gearnn-fuzz-", delete=False) as file:
        file.write(data)
    return file.name


def _read_as_frame(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        file.write(data)
        file.flush()
        Camera().frame(open_image(Path(file.name)))


def _load_adaptor(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        file.write(data)
        file.flush()
        Adaptor.load(file.name)


def _adaptor() -> bytes:
    level = DistortionLevel.parse("jpeg:quality=10")
    tensors = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}
    measured = Calibration(
        kind="brightness",
        level=DistortionLevel(),
        features=("one",),
        mean=(1.0,),
        covariance=((1.0,),),
        num_frames=1,
    )
    return Adaptor(
        level=level,
        base_fingerprint="0" * 64,
        layers=("a",),
        bound=8,
        batchnorm_statistics="frozen",
        tensors=tensors,
        calibration=(measured,),
    ).to_bytes()


def _contained(photo: Image.Image, container: str) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        stream = file.add_stream("libx264", rate=25, options={"crf": "30"})
        stream.width, stream.height, stream.pix_fmt = *photo.size, "yuv420p"  # type: ignore[attr-defined]
        for packet in [*stream.encode(av.VideoFrame.from_image(photo)), *stream.encode(None)]:  # type: ignore[attr-defined]
            file.mux(packet)
    return buffer.getvalue()


def main() -> int:
    """Fuzz and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    warnings.simplefilter("ignore")  # of Pillow, about odd metadata
    started = time.monotonic()
    try:
        counts = run(arguments.inputs, arguments.seed, show=True)
    except Finding as finding:
        print(f"FOUND {finding}", file=sys.stderr)
        return 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{arguments.inputs:,} inputs in {time.monotonic() - started:.0f} s, at most {peak:.0f} MB of memory")
    for outcome, count in sorted(counts.items()):
        print(f"  {outcome:<28}{count:>8,}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
