"""The rules of the house that a reader would otherwise have to check by eye."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import gearnn
from gearnn import errors
from tests.conftest import REPOSITORY

ONLY = {
    "mlflow": {
        "gearnn/registry/loading.py",
        "gearnn/registry/logged.py",
        "gearnn/registry/versions.py",
        "gearnn/registry/servers.py",
        "gearnn/registry/runs.py",
    },
    "pulp": {"gearnn/knapsack.py"},
    "pydantic": {"gearnn/plan/plan.py", "gearnn/plan/sections.py", "tasks/records.py"},
    "matplotlib": {"gearnn/evaluation/figures.py", "gearnn/streams/figure.py"},
    "boto3": {"gearnn/store/bucket.py"},
    "av": {"gearnn/distortions/video.py"},  # gearnn/streams/media.py has it from there
    "mpegdash": {"gearnn/streams/dash.py"},
}
FORBIDDEN = {"gearnn": {"tasks", "flows", "prefect", "typer"}, "tasks": {"flows", "typer"}, "flows": set()}


def sources(package: str) -> list[Path]:
    return sorted((REPOSITORY / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports, anywhere in it, type checking aside."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_run_one_way_downwards(package: str) -> None:
    assert {
        str(p): imported(p) & FORBIDDEN[package] for p in sources(package) if imported(p) & FORBIDDEN[package]
    } == {}


@pytest.mark.parametrize("library", ONLY)
def test_a_library_is_used_in_its_own_room_only(library: str) -> None:
    found = {
        str(path.relative_to(REPOSITORY))
        for package in FORBIDDEN
        for path in sources(package)
        if library in imported(path)
    }
    assert found == ONLY[library]


def test_importing_the_library_is_light() -> None:
    heavy = ("mlflow", "prefect", "av", "boto3", "bracex", "requests", "matplotlib", "pulp", "pydantic")
    code = (
        "import sys, gearnn; gearnn.GearBox; gearnn.weight_change; gearnn.sense; "
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_public_name_is_there_and_documented() -> None:
    for name in gearnn.__all__:
        assert inspect.getdoc(getattr(gearnn, name)), name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        gearnn.nothing  # noqa: B018


def test_every_error_stands_in_the_tree() -> None:
    defined = [n for n, c in vars(errors).items() if inspect.isclass(c) and issubclass(c, errors.GearNNError)]
    assert errors.__doc__ is not None
    for name in defined:
        assert name in errors.__doc__, name


@pytest.mark.parametrize("package", FORBIDDEN)
def test_every_module_says_what_it_is_for(package: str) -> None:
    assert [str(p) for p in sources(package) if not ast.get_docstring(ast.parse(p.read_text()))] == []


def test_every_module_of_the_library_can_be_imported() -> None:
    for path in sources("gearnn"):
        parts = path.relative_to(REPOSITORY).with_suffix("").parts
        importlib.import_module(".".join(p for p in parts if p != "__init__"))
