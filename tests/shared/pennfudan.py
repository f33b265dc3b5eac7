"""Penn-Fudan as it is published, small and made up."""

from pathlib import Path

import numpy as np
from PIL import Image


def make(root: Path, numbers: range = range(1, 21)) -> Path:
    for folder in ("PNGImages", "PedMasks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number in numbers:
        rng = np.random.default_rng(number)
        size = (20 + number % 3, 24)
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(
            root / "PNGImages" / f"FudanPed{number:05d}.png"
        )
        mask = np.zeros(size, np.uint8)
        mask[2:8, 3:9], mask[5:15, 12:20] = 1, 2
        Image.fromarray(mask).save(root / "PedMasks" / f"FudanPed{number:05d}_mask.png")
    return root
