"""The rules of the house that a reader would otherwise have to check by eye."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Collection, Iterator, Mapping
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import gearnn
from gearnn import errors
from tests.conftest import REPOSITORY

ONLY = {
    "mlflow": {"gearnn/registry/"},
    "prefect": {"tasks/", "flows/"},
    "typer": {"flows/cli/"},
    "pulp": {"gearnn/knapsack.py"},
    "pydantic": {"gearnn/plan/", "tasks/records.py"},
    "matplotlib": {"gearnn/evaluation/figures.py", "gearnn/streams/figure.py"},
    "boto3": {"gearnn/store/bucket.py"},
    "av": {"gearnn/distortions/video.py"},  # gearnn/streams/media.py has it from there
    "mpegdash": {"gearnn/streams/dash.py"},
}
"""Which rooms, or files, may import a library."""

FORBIDDEN = {"gearnn": {"tasks", "flows", "prefect", "typer"}, "tasks": {"flows", "typer"}, "flows": set()}

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]

COMES_WITH = {"botocore": "boto3", "s3transfer": "boto3", "urllib3": "requests", "pydantic-core": "pydantic"}
"""Packages that are inner parts of declared ones."""

OF_AN_EXTRA = {"flows/running/clusters.py": {"distributed"}, "infra/services/postgres.py": {"psycopg2"}}
"""What only an extra brings, and the files that import it, after they said which extra is missing."""

BRINGS = packages_distributions()
"""Module -> the packages that bring it."""

ABOVE = {"gearnn/gears": {"gearnn.gearbox", "gearnn.GearBox"}}
"""What is built of a room, and which it does not know, not even for its types."""


def sources(package: str) -> list[Path]:
    return sorted((REPOSITORY / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports, anywhere in it."""
    return {name.split(".")[0] for name in imports_of(path)}


def imports_of(path: Path) -> set[str]:
    """All that a file imports anywhere in it, as ``package.module`` and ``package.module.name``."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def name_of(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def needs(path: Path, modules: Collection[str]) -> set[str]:
    """Modules of ours that a file needs while it runs: also what functions import; not what only types need.

    What a package hands out when it is asked for (``__getattr__``) stands under ``TYPE_CHECKING``, and counts.
    """
    tree = ast.parse(path.read_text())
    found: set[str] = set()
    for node in _running(tree, with_types="__getattr__" in {getattr(n, "name", "") for n in tree.body}):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & set(modules)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in modules else node.module for name in names} & set(modules)
    return found - {name_of(path)}


def with_packages(name: str, needed: Collection[str], paths: Mapping[str, Path]) -> set[str]:
    """What a module needs, and the packages that Python imports before it, but for those that import on demand."""
    packages = {".".join(one.split(".")[:end]) for one in needed for end in range(1, one.count(".") + 1)}
    return {*needed} | {p for p in packages if not name.startswith(p) and "def __getattr__" not in paths[p].read_text()}


def _running(tree: ast.AST, *, with_types: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if with_types or not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            yield from _running(node, with_types=with_types)


def circles(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """Sets of modules of which each reaches each."""
    reached = {name: _reached(name, graph) for name in graph}
    found = [{b for b in reached[a] if a in reached[b]} for a in sorted(graph)]
    return [circle for i, circle in enumerate(found) if circle and circle not in found[:i]]


def _reached(name: str, graph: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for other in graph[waiting.pop()] - found:
            found.add(other)
            waiting.append(other)
    return found


def packages(requirements: Collection[str]) -> set[str]:
    """Names of required packages, without versions and extras, in the form that tells them apart."""
    return {normal(re.split(r"[^\w.-]", requirement)[0]) for requirement in requirements}


def normal(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def packages_of(module: str) -> set[str]:
    """The packages that bring a module; its own name where it is not installed."""
    found = {normal(package) for package in BRINGS.get(module, [module])}
    return {COMES_WITH.get(package, package) for package in found}


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_run_one_way_downwards(package: str) -> None:
    assert {
        str(p): imported(p) & FORBIDDEN[package] for p in sources(package) if imported(p) & FORBIDDEN[package]
    } == {}


@pytest.mark.parametrize("room", ABOVE)
def test_a_room_does_not_know_what_is_built_of_it(room: str) -> None:
    assert {str(p): names for p in sources(room) if (names := imports_of(p) & ABOVE[room])} == {}


def test_an_import_for_types_alone_counts_as_knowing(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    for line in ("from gearnn.gearbox import GearBox", "from gearnn import gearbox", "import gearnn.gearbox"):
        file.write_text(f"if TYPE_CHECKING:\n    {line}\n")
        assert "gearnn.gearbox" in imports_of(file)


@pytest.mark.parametrize("library", ONLY)
def test_a_library_is_used_in_its_own_room_only(library: str) -> None:
    users = [
        str(path.relative_to(REPOSITORY))
        for package in FORBIDDEN
        for path in sources(package)
        if library in imported(path)
    ]
    assert [user for user in users if not user.startswith(tuple(ONLY[library]))] == []
    assert [room for room in ONLY[library] if not any(user.startswith(room) for user in users)] == []


@pytest.mark.parametrize("package", [*FORBIDDEN, "infra"])
def test_what_is_imported_is_declared_as_a_dependency(package: str) -> None:
    """`make demo` installs nothing else."""
    declared = packages(PROJECT["dependencies"])
    known = {*sys.stdlib_module_names, *FORBIDDEN, "infra"}
    undeclared = {
        str(path.relative_to(REPOSITORY)): found
        for path in sources(package)
        if (found := {name for name in imported(path) - known if not packages_of(name) & declared})
    }
    assert undeclared == {path: names for path, names in OF_AN_EXTRA.items() if path.startswith(package)}


def test_what_tests_share_stands_in_one_place() -> None:
    taken = {str(path): {name for name in imports_of(path) if ".test_" in name} for path in sources("tests")}
    assert {path: names for path, names in taken.items() if names} == {}


def test_no_module_needs_itself() -> None:
    paths = {name_of(path): path for package in (*FORBIDDEN, "infra") for path in sources(package)}
    assert circles({name: with_packages(name, needs(path, paths), paths) for name, path in paths.items()}) == []


def test_circles_are_found_wherever_an_import_stands(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("if TYPE_CHECKING:\n    import x.b\ndef f():\n    from x import c\n    from x.d import name\n")
    modules = {"x", "x.b", "x.c", "x.d"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "REPOSITORY", tmp_path)
        assert needs(file, modules) == {"x.c", "x.d"}
        file.write_text(file.read_text() + "def __getattr__(name): ...\n")
        assert needs(file, modules) == {"x.b", "x.c", "x.d"}
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]


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


@pytest.mark.parametrize("name", ["gearnn", "gearnn.distortions", "gearnn.registry"])
def test_what_a_package_hands_out_on_demand_is_there(name: str) -> None:
    package = importlib.import_module(name)
    assert {*package._HOMES} == {*package.__all__} - {"__version__"}
    for public in package.__all__:
        assert getattr(package, public) is not None


def test_every_module_can_be_imported_without_the_extras() -> None:
    """All in one process: names that imports take from modules of ours are checked by nothing else."""
    extras = [one for extra in ("dask", "ray", "services") for one in PROJECT["optional-dependencies"][extra]]
    optional = packages(extras) - packages(PROJECT["dependencies"])
    absent = {"dask", "ray"}.union(*OF_AN_EXTRA.values(), (name for name in BRINGS if packages_of(name) & optional))
    assert {"prefect_dask", "prefect_ray", "psycopg2"} <= absent
    modules = [name_of(path) for p in (*FORBIDDEN, "infra") for path in sources(p) if path.name != "__main__.py"]
    code = (
        f"import importlib, sys; sys.modules |= dict.fromkeys({absent})\n"
        f"for name in {modules}: importlib.import_module(name)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr


def test_every_error_stands_in_the_tree() -> None:
    defined = [n for n, c in vars(errors).items() if inspect.isclass(c) and issubclass(c, errors.GearNNError)]
    assert errors.__doc__ is not None
    for name in defined:
        assert name in errors.__doc__, name


@pytest.mark.parametrize("package", FORBIDDEN)
def test_every_module_says_what_it_is_for(package: str) -> None:
    assert [str(p) for p in sources(package) if not ast.get_docstring(ast.parse(p.read_text()))] == []


def test_the_way_of_an_adaptor_is_short_and_its_files_are_there() -> None:
    section = (REPOSITORY / "CONTRIBUTING.md").read_text().partition("### From `gearnn adapt`")[2].partition("\n## ")[0]
    files = re.findall(r"`([a-z_/0-9]+\.py)`", section)
    assert len(files) == len(set(files)) <= 27
    assert [name for name in files if not (REPOSITORY / name).is_file()] == []
