"""Which levels of which plans a push has added, and so what is to be trained for it.

Both commits are read with their own code: the levels of a plan grow as well when a level set or a kind of distortion
does. Where the code of the commit before cannot read its plans, that of the commit after does.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READER = Path(__file__).with_name("plan_levels.py")
FOLDERS = ("flows/plans", "plans")


class PushError(RuntimeError):
    """A push cannot be compared, or a plan in it is wrong; one line says why."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A run to ask for: these levels of these plans."""

    plans: tuple[str, ...]
    levels: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What a push has added.

    Attributes:
        added: plan -> its new levels, in its order.
        notes: what has changed besides, and why nothing is done about it.
    """

    added: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]
    levels: dict[str, tuple[str, ...]]

    @property
    def requests(self) -> list[Request]:
        """One run for all plans; one a plan, where a level that is new in one is an old one of another."""
        if not self.added:
            return []
        together = tuple(dict.fromkeys(level for levels in self.added.values() for level in levels))
        if all(set(self.levels[plan]) & set(together) == set(new) for plan, new in self.added.items()):
            return [Request(plans=tuple(self.added), levels=together)]
        return [Request(plans=(plan,), levels=new) for plan, new in self.added.items()]


def find_changes(repository: Path, before: str | None, after: str, folders: Sequence[str] = FOLDERS) -> Changes:
    """Compare the plans of two commits.

    Args:
        repository: that has both.
        before: None for nothing.
        after: the newer one.
        folders: whose plans count; folders inside of them do not, unless named.

    Raises:
        PushError: git, or a plan of the newer commit.
    """
    with tempfile.TemporaryDirectory() as scratch:
        new_tree, old_tree = Path(scratch) / "after", Path(scratch) / "before"
        _unpack(repository, after, new_tree)
        new = _read(new_tree, new_tree, folders)
        if before is None:
            return compare({"plans": {}, "kinds": new["kinds"]}, new)
        _unpack(repository, before, old_tree)
        try:
            old = _read(old_tree, old_tree, folders)
        except PushError:
            old = _read(old_tree, new_tree, folders)
    return compare(old, new)


def compare(old: dict[str, Any], new: dict[str, Any]) -> Changes:
    """What is in the new state and was not in the old one; both as :mod:`infra.ci.plan_levels` writes them.

    Raises:
        PushError: a plan of the new state is wrong.
    """
    if wrong := [state["error"] for state in new["plans"].values() if state["error"]]:
        raise PushError("; ".join(wrong))
    moved = {_key(state): name for name, state in old["plans"].items() if name not in new["plans"]}
    added, notes = {}, []
    for plan, state in new["plans"].items():
        known = old["plans"].get(plan) or old["plans"].get(moved.get(_key(state), ""))
        if known is None or set(state["levels"]) - set(known["levels"]):
            had = set(known["levels"]) if known else set()
            added[plan] = tuple(level for level in state["levels"] if level not in had)
        if known is not None and known["rest"] != state["rest"]:
            notes.append(
                f"{plan}: its recipe has changed; the levels that it had are left to the nightly run, which compares"
            )
    used = {part.partition(":")[0] for levels in added.values() for level in levels for part in level.split("+")}
    for kind in sorted(set(new["kinds"]) - set(old["kinds"]) - used):
        notes.append(f"{kind}: a new kind of distortion that no new level of a plan has; nothing is trained for it")
    return Changes(added=added, notes=tuple(notes), levels={p: tuple(s["levels"]) for p, s in new["plans"].items()})


def _key(state: dict[str, Any]) -> str:
    return json.dumps([state["levels"], state["rest"]], sort_keys=True)


def commit_before(repository: Path, before: str, after: str, default_branch: str) -> str | None:
    """What a push is compared with.

    Args:
        repository: a clone.
        before: what the branch was at; all zeros on GitHub for a branch that is new.
        after: what it is at now.
        default_branch: from which a new branch, or one that was rewritten, has come.

    Returns:
        A commit; None where there was nothing.

    Raises:
        PushError: the clone has no ``after``.
    """
    _git(repository, "cat-file", "-e", f"{after}^{{commit}}")
    if set(before) != {"0"} and _has(repository, before):
        return before
    for branch in (f"origin/{default_branch}", default_branch):
        if _has(repository, branch):
            found = _git(repository, "merge-base", branch, after).decode().strip()
            if found != _git(repository, "rev-parse", after).decode().strip():
                return found
    return f"{after}^" if _has(repository, f"{after}^") else None


def _has(repository: Path, commit: str) -> bool:
    command = ["git", "-C", str(repository), "rev-parse", "--quiet", "--verify", f"{commit}^{{commit}}"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _git(repository: Path, *arguments: str) -> bytes:
    done = subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True, check=False)
    if done.returncode:
        raise PushError(f"git {' '.join(arguments)}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def _unpack(repository: Path, commit: str, target: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(_git(repository, "archive", commit))) as archive:
        archive.extractall(target, filter="data")


def _read(tree: Path, code: Path, folders: Sequence[str]) -> dict[str, Any]:
    command = [sys.executable, "-P", str(READER), *folders]
    environment = {**os.environ, "PYTHONPATH": str(code)}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PushError(f"plans cannot be read: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    read: dict[str, Any] = json.loads(done.stdout)
    return read
