"""What ``gearnn doctor`` looks at: this machine, Prefect, MLflow, and plans; one line a check, each by itself.

Nothing is imported here that may be what is broken, and no check takes longer than some seconds.
"""

import contextvars
import os
import platform
import queue
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import gearnn
from gearnn.errors import GearNNError

_LONGEST_S = 30.0
_LITTLE_SPACE = 2e9
_CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
_TOLD = ("torch", "torchvision", "prefect", "mlflow", "pyarrow", "pulp", "av", "boto3")


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the doctor's.

    Attributes:
        mark: whether it works; ``warn`` where it does not do harm yet, or not to everybody.
        what: was looked at.
        found: and what to do about it.
        status: exit status that it asks for.
    """

    mark: Literal["ok", "warn", "fail"]
    what: str
    found: str
    status: int = 0


def examine(plans: Sequence[Path], pool: str) -> Iterator[Check]:
    """All checks, each as soon as it is done.

    Args:
        plans: files.
        pool: Prefect's work pool that deployments run on.
    """
    from tasks.doctor_plan import plan_checks
    from tasks.doctor_servers import mlflow_checks, prefect_checks

    for what, check in (
        ("Python", python_checks),
        ("packages", package_checks),
        ("devices", device_checks),
        ("disk", disk_checks),
        ("Prefect", partial(prefect_checks, pool)),
        ("MLflow", mlflow_checks),
    ):
        yield from attempt(what, check)
    for plan in plans:
        yield from plan_checks(plan)


def attempt(what: str, check: Callable[[], Iterable[Check]], longest_s: float = _LONGEST_S) -> Iterator[Check]:
    """The lines of a check; and one more where it breaks off, or takes too long.

    Args:
        what: is looked at.
        check: gives lines, and raises where it cannot go on.
        longest_s: seconds for each line.
    """
    lines: queue.SimpleQueue[Check | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            for line in check():
                lines.put(line)
        except Exception as error:  # whatever is wrong with one thing, the others are looked at
            lines.put(failed(what, error))
        lines.put(None)

    threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=longest_s)
        except queue.Empty:
            yield Check(
                mark="fail", what=what, found=f"expected an answer within {longest_s:.0f} s, but got none", status=1
            )
            return
        if line is None:
            return
        yield line


def failed(what: str, error: BaseException) -> Check:
    """The line of an error."""
    from gearnn.servers import one_line

    told = str(error) if isinstance(error, GearNNError) else f"{type(error).__name__}: {one_line(error)}"
    return Check(mark="fail", what=what, found=told, status=getattr(error, "exit_status", 1))


def python_checks() -> Iterator[Check]:
    """Python, and GearNN itself."""
    found = f"{platform.python_version()} in {sys.prefix}; GearNN {gearnn.__version__} in {Path(__file__).parents[1]}"
    if not (3, 11) <= sys.version_info[:2] < (3, 14):
        yield Check(mark="fail", what="Python", found=f"expected 3.11 to 3.13, but got {found}", status=1)
    else:
        yield Check(mark="ok", what="Python", found=found)


def package_checks() -> Iterator[Check]:
    """Versions beside those that are tested together, and whether torchvision fits torch."""
    tested = _tested()
    here = {name: found for name in {*_TOLD, *tested} if (found := _installed(name))}
    other = [f"{n} {v} ({tested[n]})" for n, v in sorted(here.items()) if v.partition("+")[0] != tested.get(n, v)]
    told = ", ".join(f"{name} {here[name]}" for name in _TOLD if name in here)
    if other:
        more = f" and {len(other) - 6} more" if len(other) > 6 else ""
        told = f"{told}; other than tested: {', '.join(other[:6])}{more}; pip install -c constraints.txt ..."
    yield Check(mark="warn" if other else "ok", what="packages", found=told)
    if "fastapi" in tested and here.get("fastapi", tested["fastapi"]) != tested["fastapi"]:
        todo = f"pip install fastapi=={tested['fastapi']} where one is to run"
        yield Check(mark="warn", what="fastapi", found=f"Prefect's server may fail with {here['fastapi']}; {todo}")
    try:
        import torchvision  # noqa: F401
    except Exception as error:  # RuntimeError: operator torchvision::nms does not exist
        versions = " and ".join(f"{n} {here.get(n, 'none')}" for n in ("torch", "torchvision"))
        found = f"expected that fit together, but got {versions}: {error}; install both with -c constraints.txt"
        yield Check(mark="fail", what="torchvision", found=" ".join(found.split()), status=1)


def device_checks() -> Iterator[Check]:
    """GPUs by name, and the cores of this process."""
    import torch

    from gearnn.slots import cores

    number = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = [f"cuda:{index} {torch.cuda.get_device_name(index)}" for index in range(number)]
    gpus = ", ".join(names) or "no GPU that torch can use; plans with device: cuda do not run here"
    yield Check(mark="ok", what="devices", found=f"{len(cores())} cores; {gpus}")


def disk_checks() -> Iterator[Check]:
    """Room where GearNN keeps what belongs to no store."""
    from gearnn.files import home

    folder = next(path for path in (home(), *home().parents) if path.is_dir())
    free = shutil.disk_usage(folder).free
    found = f"{free / 1e9:,.1f} GB free at {home()}"
    if not os.access(folder, os.W_OK):
        found = f"expected to be able to write to {folder}; set GEARNN_HOME to another folder"
        yield Check(mark="fail", what="disk", found=found, status=1)
    elif free < _LITTLE_SPACE:
        yield Check(mark="warn", what="disk", found=f"{found}; free some, `gearnn cache show` says what is held")
    else:
        yield Check(mark="ok", what="disk", found=found)


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _tested() -> dict[str, str]:
    """Package -> version in constraints.txt; empty where GearNN was installed without it."""
    lines = _CONSTRAINTS.read_text().splitlines() if _CONSTRAINTS.is_file() else []
    pins = (line.partition("==") for line in lines if "==" in line and not line.startswith("#"))
    return {name.strip(): pin.strip() for name, _, pin in pins}
