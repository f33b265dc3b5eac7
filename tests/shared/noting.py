"""A small network that notes which processes train it; plans name it as ``tests.shared.noting:Noting``."""

import os
import time
from pathlib import Path

from torch import Tensor, nn

from gearnn.machine.slots import _held

FOLDER, NUMBER = "GEARNN_TEST_NOTES", "GEARNN_TEST_PROCESSES"
_SECONDS = 90.0


class Noting(nn.Module):
    """Whoever trains it first waits until as many processes do as the environment says."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits at the size of the frames, float [B, C, H, W]."""
        if self.training and _held.get() is not None:  # the check before a run trains, too, and holds nothing
            note()
        return self.head(self.norm(self.conv(x)).relu())


def note() -> None:
    """Note this process, and wait for the others."""
    folder = Path(os.environ[FOLDER])
    own = folder / str(os.getpid())
    if own.exists():
        return
    own.touch()
    deadline = time.monotonic() + _SECONDS
    while len(list(folder.iterdir())) < int(os.environ[NUMBER]) and time.monotonic() < deadline:
        time.sleep(0.05)
