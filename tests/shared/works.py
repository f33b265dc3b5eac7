"""A repository with a remote, deployments, and a worker that runs what is pushed: all real, on loopback."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

import yaml

from infra.services import Services
from infra.services.processes import Process, end, spawn
from tests.conftest import REPOSITORY
from tests.shared.plans import tiny

BASE = "ops-streets"
PLAN = "plans/ops.yaml"
LEVELS = ["jpeg:quality=5"]
_AS_SOMEBODY = ["-c", "user.name=Ann", "-c", "user.email=ann@example.org", "-c", "commit.gpgsign=false"]


def plan(levels: list[str]) -> dict[str, Any]:
    """What runs in seconds, with its store in S3."""
    return tiny(BASE, levels, "s3://gearnn/ops", frames=(4, 2))


@dataclass
class Works:
    """The desk where somebody writes code, the remote it is pushed to, and the worker's clone."""

    services: Services
    folder: Path
    process: Process | None = None
    log: list[str] = field(default_factory=list)

    @property
    def desk(self) -> Path:
        return self.folder / "desk"

    @cached_property
    def environment(self) -> dict[str, str]:
        """Of whoever uses the servers; nothing of the tests' own settings."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own = {"GEARNN_HOME": str(self.folder / "home"), "PREFECT_HOME": str(self.folder / "prefect"), "PATH": path}
        return {**kept, **self.services.environment(), **own}

    def run(self, *command: str, cwd: Path | None = None, ok: int = 0, **environment: str) -> str:
        """Run a command at the desk to its end; what it printed."""
        done = subprocess.run(
            command,
            cwd=cwd or self.desk,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == ok, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def git(self, *arguments: str) -> str:
        return self.run("git", *_AS_SOMEBODY, *arguments).strip()

    def set_up(self) -> None:
        """The tracked files of this repository as the first commit of a new one, which has three clones."""
        self.desk.mkdir(parents=True)
        for name in self.run("git", "ls-files", "-z", cwd=REPOSITORY).split("\0"):
            if name and (REPOSITORY / name).is_file():
                (self.desk / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(REPOSITORY / name, self.desk / name)
        self.git("init", "--quiet", "--initial-branch=main")
        self.write_plan(LEVELS)
        self.commit("the first plan")
        for clone in ("remote.git", "worker"):
            self.run(
                "git", "clone", "--quiet", *(["--bare"] if "." in clone else []), str(self.desk), clone, cwd=self.folder
            )
        self.git("remote", "add", "origin", str(self.folder / "remote.git"))
        self.run("git", "remote", "set-url", "origin", str(self.folder / "remote.git"), cwd=self.folder / "worker")

    def write_plan(self, levels: list[str]) -> None:
        (self.desk / PLAN).parent.mkdir(exist_ok=True)
        (self.desk / PLAN).write_text(yaml.safe_dump(plan(levels)))

    def commit(self, message: str) -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", f"--message={message}")
        return self.git("rev-parse", "HEAD")

    def start_worker(self) -> None:
        """As docs/servers.md says, with no wait between questions for work."""
        if self.process is not None and self.process.alive:
            return
        page = documentation("servers.md")
        (command,) = re.findall(r"^GEARNN_WORKDIR=.* prefect worker start .*$", page, re.MULTILINE)
        self.process = spawn(
            ["bash", "-c", command],
            self.environment | {"PREFECT_WORKER_QUERY_SECONDS": "2"},
            self.folder / "worker.log",
            user=None,
            cwd=self.folder / "worker",
        )

    def end_worker(self, *, killed: bool = False) -> None:
        if self.process is not None:
            end(self.process, SIGKILL if killed else SIGTERM, 0 if killed else 20)

    @cached_property
    def adapted(self) -> str:
        """What `gearnn submit` printed for the first plan, which is in the registry then."""
        self.start_worker()
        return self.run("gearnn", "submit", PLAN, "--watch")


def documentation(page: str) -> str:
    return (REPOSITORY / "docs" / page).read_text()


@contextmanager
def works(services: Services, folder: Path) -> Iterator[Works]:
    """Everything deployed, and a worker that is about to ask for work."""
    made = Works(services, folder)
    made.set_up()
    try:
        made.log.append(made.run(sys.executable, "-m", "infra.deploy"))
        made.start_worker()
        yield made
    finally:
        made.end_worker()


def until(holds: Any, seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.5)
    return found
