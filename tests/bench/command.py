"""What the command costs before it does anything: seconds of a processor, of the command and what it starts."""

import os
import resource
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

_TURNS = 5


def seconds(*arguments: str) -> tuple[float, str]:
    """Least seconds of a processor that `gearnn` takes over some turns, and what was run."""
    with TemporaryDirectory() as folder:
        Image.effect_noise((64, 64), 50).convert("RGB").save(Path(folder, "frame.jpg"), quality=20)
        environment = {**os.environ, "GEARNN_HOME": folder}
        command = [sys.executable, "-m", "gearnn", *arguments]
        subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)  # makes the registry
        return min(_once(command, folder, environment) for _ in range(_TURNS)), " ".join(("gearnn", *arguments))


def _once(command: list[str], folder: str, environment: dict[str, str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
