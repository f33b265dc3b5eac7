"""Set-up by make: what each target installs, and when. A script stands for Python, so nothing is installed here."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

ALONE, SERVICES, ALL = ".", ".[services]", ".[dev]"
NEEDS = {
    "demo": ALONE,
    "deploy": ALONE,
    "services": SERVICES,
    "services-stop": SERVICES,
    **dict.fromkeys(("setup", "test", "test-anywhere", "check", "bench", "fuzz", "torture", "format"), ALL),
}

PYTHON = """#!/bin/sh
# Stands for Python of any version, and for every program of .venv/bin.
packages=.venv/lib/python3.11/site-packages
case "$*" in
*'version("pip")'*) [ -e $packages/pip-1.dist-info ] ;;
'-m venv --clear .venv')
    rm -rf .venv
    mkdir -p .venv/bin $packages/pip-1.dist-info
    echo pip-1.dist-info/INSTALLER,, > $packages/pip-1.dist-info/RECORD
    for name in python gearnn ruff mypy; do cp "$0" .venv/bin/$name; done
    echo venv >> log ;;
*' install '*)
    for last; do :; done
    echo "$last" >> log
    [ ! -e pip-fails ] ;;
esac
"""


class Checkout:
    """A folder with what make looks at; its files are older than all that happens there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(REPOSITORY / name, folder)
            self.date(name, 1)
        self.python = folder / "python-of-the-system"
        self.python.write_text(PYTHON)
        self.python.chmod(0o755)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        outer = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        command = ["make", f"PYTHON={self.python}", *arguments]
        return subprocess.run(command, cwd=self.folder, env=outer, capture_output=True, text=True)

    def make(self, *arguments: str, status: int = 0) -> list[str]:
        """What has been made and installed after this, in order."""
        done = self.run(*arguments)
        assert done.returncode == status, done.stdout + done.stderr
        return (self.folder / "log").read_text().splitlines()

    def date(self, name: str, day: int) -> None:
        """Say when a file was written; clocks of file systems may be too coarse to tell two writes apart."""
        os.utime(self.folder / name, (86400.0 * day, 86400.0 * day))

    def package(self, name: str, record: str) -> Path:
        """Metadata of a package in the environment."""
        folder = self.folder / f".venv/lib/python3.11/site-packages/{name}.dist-info"
        folder.mkdir(exist_ok=True)
        (folder / "RECORD").write_text(record)
        return folder


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.mark.parametrize("target", NEEDS)
def test_a_target_installs_what_it_needs_from_a_bare_python_once(checkout: Checkout, target: str) -> None:
    assert checkout.make(target) == ["venv", NEEDS[target]]
    assert checkout.make(target) == ["venv", NEEDS[target]]


def test_every_target_that_runs_python_sets_up_what_it_runs_in() -> None:
    rules = re.findall(r"^([a-z-]+):(?: (\$\(\w+\)))? ##", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert {name for name, stamp in rules if stamp} == {*NEEDS}
    assert {name for name, stamp in rules if not stamp} == {"help", "clean"}


def test_what_targets_install_is_an_extra_of_the_package() -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"services", "dev"} <= {*extras}
    (everything,) = [one for one in extras["dev"] if one.startswith("gearnn[")]
    assert everything == f"gearnn[{','.join(sorted({*extras} - {'dev'}))}]"


def test_the_tests_add_to_the_demos_environment(checkout: Checkout) -> None:
    assert checkout.make("demo") == ["venv", ALONE]
    assert checkout.make("services") == ["venv", ALONE, SERVICES]
    assert checkout.make("test") == ["venv", ALONE, SERVICES, ALL]
    assert checkout.make("demo", "services", "check", "test") == ["venv", ALONE, SERVICES, ALL]


def test_after_the_tests_nothing_is_left_to_install(checkout: Checkout) -> None:
    assert checkout.make("test") == ["venv", ALL]
    assert checkout.make("demo", "services", "deploy", "check", "bench") == ["venv", ALL]


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_what_has_changed_is_installed_again_where_it_is_needed(checkout: Checkout, name: str) -> None:
    checkout.make("test")
    for stamp in (".package", ".services", ".all"):
        checkout.date(f".venv/{stamp}", 2)
    checkout.date(name, 3)
    assert checkout.make("demo")[2:] == [ALONE]
    assert checkout.make("demo")[2:] == [ALONE]
    assert checkout.make("test", "demo", "test")[2:] == [ALONE, ALL]


@pytest.mark.parametrize("target", ["demo", "services", "test"])
def test_an_install_that_failed_is_done_again(checkout: Checkout, target: str) -> None:
    (checkout.folder / "pip-fails").touch()
    assert checkout.make(target, status=2) == ["venv", NEEDS[target]]
    (checkout.folder / "pip-fails").unlink()
    assert checkout.make(target) == ["venv", NEEDS[target], NEEDS[target]]
    assert checkout.make(target) == ["venv", NEEDS[target], NEEDS[target]]


def test_a_package_that_pip_was_killed_over_is_installed_again(checkout: Checkout) -> None:
    checkout.make("demo")
    whole = checkout.package("whole-1", "whole-1.dist-info/INSTALLER,,\nwhole.py,,\n")
    torn = checkout.package("torn-1", "torn.py,,\ntorn-1.dist-info/RECORD,,\n")
    barely = checkout.package("barely-1", "")
    (barely / "RECORD").unlink()
    checkout.make("test")
    assert (whole.exists(), torn.exists(), barely.exists()) == (True, False, False)


def test_an_environment_without_a_whole_pip_is_made_anew(checkout: Checkout) -> None:
    checkout.make("demo")
    checkout.package("pip-1", "pip/__init__.py,,\n")
    assert checkout.make("test") == ["venv", ALONE, "venv", ALL]
    assert checkout.make("demo") == ["venv", ALONE, "venv", ALL]


def test_targets_asked_for_at_once_install_one_after_the_other(checkout: Checkout) -> None:
    assert checkout.make("--jobs=4", "demo", "services", "test") == ["venv", ALONE, SERVICES, ALL]


@pytest.mark.parametrize("version", [(3, 10), (3, 14)])
def test_a_python_that_is_too_old_or_too_new_is_one_line(checkout: Checkout, version: tuple[int, int]) -> None:
    pretend = f"import sys; sys.version_info = {version}; exec(sys.argv[1])"
    checkout.python.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{pretend}" "$2"\n')
    done = checkout.run("demo")
    first, second = done.stderr.splitlines()
    told = f"expected Python 3.11 to 3.13, but {checkout.python} is {version[0]}.{version[1]}"
    assert first == f"{told}; try: make PYTHON=python3.12 demo"
    assert (second.startswith("make: ***"), done.returncode, done.stdout) == (True, 2, "")
    assert not (checkout.folder / ".venv").exists()
