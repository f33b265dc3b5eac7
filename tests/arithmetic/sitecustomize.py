"""Other numbers for the tests, read from the environment by every process that has this folder on its PYTHONPATH.

Python imports a file of this name when it starts, so the processes that tests start compute like the tests do.
``GEARNN_TEST_PRECISION`` (fp32 or bf16) is what ``precision: auto`` takes, whatever the machine is fast at;
``GEARNN_TEST_SEED`` is added to every seed from which networks begin.
"""

import os
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

PRECISION, SEED = "GEARNN_TEST_PRECISION", "GEARNN_TEST_SEED"


def take_precision(compute: Any) -> None:
    """Let ``auto`` mean one precision on every device."""
    expected = os.environ[PRECISION]
    if expected not in ("fp32", "bf16"):
        raise ValueError(f"{PRECISION}: expected fp32 or bf16, but got {expected!r}")
    compute._is_bf16_native = lambda device: expected == "bf16"


def shift_seeds(torch: Any) -> None:
    """Let every seed of the global generator mean another one."""
    offset, original = int(os.environ[SEED]), torch.manual_seed
    torch.manual_seed = torch.random.manual_seed = lambda seed: original(int(seed) + offset)


CHANGES: dict[str, tuple[str, Callable[[Any], None]]] = {
    "gearnn.machine.compute": (PRECISION, take_precision),
    "torch": (SEED, shift_seeds),
}


class Changing(MetaPathFinder):
    """Finds the modules above as Python does, and changes each once it is imported."""

    def __init__(self) -> None:
        self.pending = {name: change for name, (variable, change) in CHANGES.items() if os.environ.get(variable)}

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        change = self.pending.pop(fullname, None)
        spec = PathFinder.find_spec(fullname, path, target) if change else None
        if change is None or spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def run_and_change(module: Any) -> None:
            run(module)
            change(module)

        spec.loader.exec_module = run_and_change  # type: ignore[method-assign]
        return spec


if __name__ == "sitecustomize":
    sys.meta_path.insert(0, Changing())
