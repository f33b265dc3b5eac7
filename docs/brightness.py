"""How well brightness is sensed among the paper's 20 levels, without adaptors: `.venv/bin/python docs/brightness.py`.

Calibrated on CamVid's training frames at 240x180, read from ../shared/data/camvid; sensed on its validation frames.
"""

from collections import Counter
from pathlib import Path

from rich.progress import track

from gearnn.datasets import Camera, DistortedDataset, open_split
from gearnn.distortions import Received, Sensor, calibrate, distance
from gearnn.levels import DistortionLevel, expand_levels

ROOT = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "camvid"


def main() -> None:
    """Print, for every level, how many frames were sensed right, one level off, and farther off."""
    levels = expand_levels("paper/brightness")
    train, val = (open_split("camvid", ROOT, split, Camera(size=(240, 180))) for split in ("train", "val"))
    measured = [level for level in levels if not level.is_pristine] + [DistortionLevel()]
    calibration = [
        c
        for level in track(measured, description="calibrating")
        for c in calibrate(DistortedDataset(train, level), ["brightness"])
    ]
    sensor = Sensor(levels, calibration)
    total: Counter[str] = Counter()
    for index, level in enumerate(levels):
        samples = DistortedDataset(val, level)
        found = [sensor(Received(samples.encoded(frame))).level for frame in range(len(samples))]
        off = [abs(levels.index(one) - index) for one in found]
        counts = Counter("right" if n == 0 else "one off" if n == 1 else "farther" for n in off)
        octaves = sum(distance(one, level) for one in found) / len(found)
        total += counts
        print(f"{level!s:<24}{counts['right']:>5}{counts['one off']:>5}{counts['farther']:>5}   {octaves:.2f} octaves")
    print({name: f"{100 * number / total.total():.0f} %" for name, number in total.items()})


if __name__ == "__main__":
    main()
