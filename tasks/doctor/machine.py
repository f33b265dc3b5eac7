"""What ``gearnn doctor`` looks at on this machine; nothing is imported here that may be what is broken."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import gearnn
from tasks.doctor.checks import Check

_LITTLE_SPACE = 2e9
_CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
_TOLD = ("torch", "torchvision", "prefect", "mlflow", "pyarrow", "pulp", "av", "boto3")


def python_checks() -> Iterator[Check]:
    """Python, and GearNN itself."""
    found = f"{platform.python_version()} in {sys.prefix}; GearNN {gearnn.__version__} in {Path(__file__).parents[2]}"
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

    from gearnn.machine.slots import cores

    number = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = [f"cuda:{index} {torch.cuda.get_device_name(index)}" for index in range(number)]
    gpus = ", ".join(names) or "no GPU that torch can use; plans with device: cuda do not run here"
    yield Check(mark="ok", what="devices", found=f"{len(cores())} cores; {gpus}")


def disk_checks() -> Iterator[Check]:
    """Room where GearNN keeps what belongs to no store."""
    from gearnn.store.files import home

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
