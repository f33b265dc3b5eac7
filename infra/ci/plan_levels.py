"""``python -P infra/ci/plan_levels.py FOLDER...``: what the plans in some folders say, as JSON.

Runs in the tree of one commit with that tree's code, because a plan's levels depend on it: kinds of distortion, level
sets. So it uses only what GearNN had from the beginning.
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

from gearnn.errors import GearNNError
from gearnn.levels import expand_levels
from gearnn.plan import Plan


def plan_levels(folders: list[str]) -> dict[str, dict[str, Any]]:
    """Every plan that lies in one of these folders: its levels, the rest of it, and what is wrong with it."""
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.y*ml"))]
    return {str(file): _said_by(file) for file in files}


def _said_by(file: Path) -> dict[str, Any]:
    """Of a plan that is wrong, those levels that can be read by themselves."""
    try:
        content = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        return {"levels": [], "rest": None, "error": " ".join(str(error).split())}
    rest = {key: value for key, value in content.items() if key != "levels"} if isinstance(content, dict) else None
    try:
        levels = [str(level) for level in Plan.load(file).distortion_levels]  # which also sees a key that stands twice
        return {"levels": levels, "rest": rest, "error": ""}
    except GearNNError as error:
        texts = content.get("levels") if isinstance(content, dict) else None
        return {"levels": _told(texts), "rest": rest, "error": str(error)}


def _told(texts: Any) -> list[str]:
    levels = []
    for text in [texts] if isinstance(texts, str) else texts if isinstance(texts, list) else []:
        try:
            levels += [str(level) for level in expand_levels(str(text)) if not level.is_pristine]
        except GearNNError:
            continue
    return levels


def kinds() -> list[str]:
    """Kinds of distortion that this code has."""
    try:
        from gearnn.distortions.registry import names
    except ImportError:  # a commit whose code has them elsewhere
        return []
    return names()


if __name__ == "__main__":
    sys.stdout.write(json.dumps({"plans": plan_levels(sys.argv[1:]), "kinds": kinds()}, default=str))
