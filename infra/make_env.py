"""``python -m infra.make_env [FILE]``: a value for every secret that ``infra/compose.yaml`` asks for."""

import secrets
import sys
from pathlib import Path

from infra.services.state import write_secret

EXAMPLE = Path(__file__).with_name("env.example")


def make_env(path: Path) -> None:
    """Write generated secrets where there are none yet; the databases know the old ones.

    Args:
        path: readable for its owner only.

    Raises:
        FileExistsError: the file is there already.
    """
    if path.exists():
        raise FileExistsError(f"expected no {path} yet, but it is there; its passwords are in use")
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [line[:-1] for line in EXAMPLE.read_text().splitlines() if line.endswith("=")]
    write_secret(path, "".join(f"{name}={secrets.token_hex(20)}\n" for name in names))


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(".gearnn/compose.env")
    try:
        make_env(target)
    except FileExistsError as error:
        sys.exit(str(error))
