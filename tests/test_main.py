"""The command finds its own packages, whatever a user has on the path."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gearnn.errors import PlanError
from gearnn.models.reference import resolve
from tests.conftest import REPOSITORY
from tests.shared.plans import tiny

CLASH = "raise RuntimeError('this is the module of the user')"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with this project as pip installs it, made from a copy of its sources, because building writes there."""
    folder = tmp_path_factory.mktemp("wheel")
    source, target = folder / "source", folder / "site"
    source.mkdir()
    for name in ("gearnn", "tasks", "flows"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True, capture_output=True)
    return target


@pytest.fixture
def user(tmp_path: Path) -> Path:
    """The folder of somebody who calls modules as Prefect's users do."""
    (tmp_path / "tasks.py").write_text(CLASH)
    for name in ("flows", "infra"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(CLASH)
    return tmp_path


def gearnn(user: Path, installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it who has their own folder first on the path."""
    environment = {**os.environ, "GEARNN_HOME": str(user / "home")}
    environment["PYTHONPATH"] = os.pathsep.join((str(user), str(installed), os.environ.get("PYTHONPATH", "")))
    command = [sys.executable, "-m", "gearnn", *arguments]
    return subprocess.run(command, cwd=user, env=environment, capture_output=True, text=True)


def test_modules_of_the_user_break_no_step_of_an_installed_wheel_not_even_in_other_processes(
    wheel: Path, user: Path
) -> None:
    plan = tiny("theirs", ["jpeg:quality=10"], str(user / "store")) | {"runner": "processes", "workers": 1}
    (user / "plan.yaml").write_text(yaml.safe_dump(plan))
    done = gearnn(user, wheel, "adapt", "plan.yaml")
    assert done.returncode == 0, done.stderr[-9000:]
    assert "theirs.jpeg-quality-10" in gearnn(user, wheel, "adaptors").stdout


def test_modules_of_the_user_break_nothing_in_a_checkout(user: Path) -> None:
    (user / "plan.yaml").write_text(yaml.safe_dump(tiny("theirs", ["jpeg:quality=10"], str(user / "store"))))
    checked = gearnn(user, REPOSITORY, "data", "check", "plan.yaml")
    assert checked.returncode == 0, checked.stderr[-9000:]


@pytest.mark.parametrize("reference", ["tasks.nets:build", "flows:build", "infra.nets:build"])
def test_a_plan_that_names_a_module_with_a_name_of_ours_is_refused_in_one_line(reference: str) -> None:
    package = reference.partition(":")[0].partition(".")[0]
    with pytest.raises(PlanError, match=f"; {package} is a package of GearNN's, so no module of yours can have that"):
        resolve(reference)


def test_a_module_that_was_imported_before_is_named() -> None:
    code = "import sys, types; sys.modules['tasks'] = types.ModuleType('tasks'); import gearnn.__main__ as m; m.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("gearnn: expected its package tasks in ")
    assert done.stderr.endswith(
        "but a module of that name was imported before; install gearnn again, or rename yours\n"
    )


def test_a_package_that_is_missing_is_named(wheel: Path, user: Path) -> None:
    shutil.copytree(wheel / "gearnn", user / "gearnn")
    done = gearnn(user, user, "--version")
    assert done.returncode == 1
    assert done.stderr == (
        f"gearnn: expected its package tasks in {user}, but it is not there; install gearnn again, or rename yours\n"
    )


@pytest.mark.parametrize("arguments", [["--version"], ["no-such-command"]])
def test_nothing_that_a_command_leaves_is_collected_as_python_ends(arguments: list[str]) -> None:
    code = (
        "import atexit, gc, sys, gearnn.__main__ as m; "
        f"atexit.register(lambda: print('frozen', gc.get_freeze_count() > 0)); sys.argv[1:] = {arguments}; m.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.endswith("frozen True\n"), done.stderr
