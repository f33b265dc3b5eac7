"""The command ``gearnn``, also as ``python -m gearnn``: the one file here that knows of what stands above the library.

Prefect's users call their own folders ``tasks`` and ``flows`` too. Where such a module of theirs would be found
before ours, the folder of ours is put first on the path, of this process and of those that it starts.
"""

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from gearnn.version import OWN_PACKAGES

_ROOT = Path(__file__).resolve().parents[1]


def find_own_packages() -> None:
    """Make the names of GearNN's packages mean these, whatever else is called so.

    Raises:
        SystemExit: a package is missing, or another one of that name was imported already.
    """
    if all(map(_is_own, OWN_PACKAGES)):
        return
    sys.path.insert(0, str(_ROOT))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    for name in OWN_PACKAGES:
        if not _is_own(name):
            sys.exit(
                f"gearnn: expected its package {name} in {_ROOT}, but "
                + ("a module of that name was imported before" if name in sys.modules else "it is not there")
                + "; install gearnn again, or rename yours"
            )


def _is_own(name: str) -> bool:
    found = getattr(sys.modules[name], "__path__", []) if name in sys.modules else _places(name)
    return _ROOT / name in [Path(place).resolve() for place in found]


def _places(name: str) -> list[str]:
    """The folders of a package that Python would import by this name."""
    spec = find_spec(name)
    return list(spec.submodule_search_locations or []) if spec is not None else []


def main() -> None:
    """Entry point of the console script."""
    find_own_packages()
    import_module("flows.cli").main()


if __name__ == "__main__":
    main()
