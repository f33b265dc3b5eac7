"""Other numbers for the tests, and databases that are made once, in every process that has this folder on its path.

Python imports a file of this name when it starts, so the processes that tests start compute like the tests do.
``GEARNN_TEST_PRECISION`` (fp32 or bf16) is what ``precision: auto`` takes, whatever the machine is fast at;
``GEARNN_TEST_SEED`` is added to every seed from which networks begin. ``GEARNN_TEST_DATABASES`` is a folder:
the first empty sqlite databases that MLflow and Prefect fill with their tables are kept there, and copied for
the next ones, because making these tables takes seconds, and hundreds of tests begin with none.
"""

import os
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

PRECISION, SEED, DATABASES = "GEARNN_TEST_PRECISION", "GEARNN_TEST_SEED", "GEARNN_TEST_DATABASES"


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


def copy_registries(utils: Any) -> None:
    """Let MLflow make the tables of its first sqlite file only."""
    original = utils._initialize_tables

    def initialize(engine: Any) -> None:
        is_file = engine.dialect.name == "sqlite" and engine.url.database
        fill("mlflow", engine.url.database if is_file else None, lambda: original(engine))

    utils._initialize_tables = initialize


def copy_servers(commands: Any) -> None:
    """The same for Prefect's servers."""
    original = commands.alembic_upgrade

    def upgrade(*args: Any, **kwargs: Any) -> None:
        from prefect.settings import PREFECT_SERVER_DATABASE_CONNECTION_URL

        file = str(PREFECT_SERVER_DATABASE_CONNECTION_URL.value()).partition("sqlite+aiosqlite:///")[2]
        fill("prefect", file if file.startswith("/") else None, lambda: original(*args, **kwargs))

    commands.alembic_upgrade = upgrade


def fill(name: str, file: str | None, make: Callable[[], None]) -> None:
    """Give an empty database its tables, copied from the first one of this name; other databases are only made."""
    import sqlite3
    from contextlib import closing
    from fcntl import LOCK_EX, flock
    from pathlib import Path

    if file is None:
        make()
        return
    folder = Path(os.environ[DATABASES])
    with (
        (folder / f"{name}.lock").open("w") as lock,
        closing(sqlite3.connect(folder / f"{name}.db")) as first,
        closing(sqlite3.connect(file)) as own,
    ):
        flock(lock, LOCK_EX)
        is_empty, is_first = (
            not connection.execute("SELECT 1 FROM sqlite_master").fetchone() for connection in (own, first)
        )
        if is_empty and not is_first:
            first.backup(own)
            return
        make()
        if is_empty:
            own.backup(first)


CHANGES: dict[str, tuple[str, Callable[[Any], None]]] = {
    "gearnn.machine.compute": (PRECISION, take_precision),
    "torch": (SEED, shift_seeds),
    "mlflow.store.db.utils": (DATABASES, copy_registries),
    "prefect.server.database.alembic_commands": (DATABASES, copy_servers),
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


def begin() -> None:
    """Change what is imported already, and the rest once it is."""
    changing = Changing()
    for name in [name for name in changing.pending if name in sys.modules]:
        changing.pending.pop(name)(sys.modules[name])
    sys.meta_path.insert(0, changing)


if __name__ == "sitecustomize":
    begin()
