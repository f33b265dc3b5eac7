"""Where commands put what people asked for: nothing takes the place of a file that GearNN did not write there itself.

Every folder of results keeps a list of them, ``.gearnn-written``, with the sha256 of each, so that the same command
may be run again. A result that somebody changed since is no longer GearNN's. A result never takes the place of an
input, not even of one that is on the list, is never written through a link, and is written whole or not at all.
"""

import json
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gearnn.errors import OutputError
from gearnn.store.files import UNFINISHED, digest_of_file, placed_whole, telling_of_disks

LIST = ".gearnn-written"
"""Name of the list; a line is a JSON object of a result's ``name``, its path relative to the list's folder, and its
``sha256``; an empty one while it grows. Lists of before hold names only, as JSON strings."""

_GROWING = ""


class Outputs:
    """A folder that one command writes results to.

    Args:
        folder: is made when the first result is written.
        reads: files that the command reads, and folders that it reads all files of; those that do not exist count
            for nothing.
    """

    def __init__(self, folder: Path, reads: Iterable[str | Path] = ()) -> None:
        self.folder = folder
        self._reads = [path for path in map(Path, reads) if path.exists()]
        self._ours = _listed(folder / LIST)  # digests by name; a name alone, from a list of before, has none
        self._fresh: set[str] = set()

    def check(self, *names: str) -> None:
        """Find out before any work starts whether results can be written.

        Args:
            names: of the results, relative to the folder.

        Raises:
            OutputError: one would take the place of an input, of a file that GearNN did not write or of one that
                was changed since, or two have one name; upper and lower case are the same, as many disks have it.
        """
        seen: set[str] = set()
        for name in names:
            self._check(name)
            if _folded(name) in seen:
                raise OutputError(f"{self.folder / name}: expected one result of this name, but there would be two")
            seen.add(_folded(name))

    def check_folder(self, name: str) -> None:
        """The same for a folder of results whose names are not known yet: it may hold nothing but results.

        Raises:
            OutputError: it holds an input, or a file that GearNN did not write or that was changed since.
        """
        for path in sorted((self.folder / name).rglob("*")):
            if (not path.is_dir() or path.is_symlink()) and not path.name.startswith(UNFINISHED):
                self._check(path.relative_to(self.folder).as_posix())

    @contextmanager
    def fresh(self, name: str) -> Iterator[Path]:
        """A path to write a result to, which takes the result's place when the context ends without an error.

        Until then, and after an error, what was there is there still. The path has the ending of the name.

        Raises:
            OutputError: as for :meth:`check`.
            StoreError: the folder may not be written to, or the disk is full.
        """
        self._begin(name)
        with placed_whole(self.folder / name) as written:
            yield written
            self._note(name, digest_of_file(written)[0])

    @contextmanager
    def growing(self, name: str) -> Iterator[Path]:
        """The path of a result that people may look at while it grows, such as a log; empty at first.

        One that a killed run left is GearNN's, whatever it holds.

        Raises:
            OutputError: as for :meth:`check`.
            StoreError: as for :meth:`fresh`.
        """
        self._begin(name)
        path = self.folder / name
        with placed_whole(path) as written:
            written.touch()
            self._note(name, _GROWING)
        try:
            yield path
        finally:
            if path.is_file():
                self._note(name, digest_of_file(path)[0])

    def _begin(self, name: str) -> None:
        self._check(name)
        if _folded(name) in self._fresh:
            raise OutputError(f"{self.folder / name}: expected one result of this name, but there would be two")
        self._fresh.add(_folded(name))

    def _note(self, name: str, digest: str) -> None:
        known = self._ours.setdefault(name, set())
        if digest in known and _GROWING not in known:
            return
        with (self.folder / LIST).open("a", encoding="utf-8") as file:
            # first the break, because a killed run may have left half a line
            file.write("\n" + json.dumps({"name": name, "sha256": digest}))
        known.discard(_GROWING)
        known.add(digest)

    def _check(self, name: str) -> None:
        path = self.folder / name
        within = next((read for read in self._reads if read.is_dir() and path.parent.resolve() == read.resolve()), None)
        if within is not None:  # it would be read the next time
            raise OutputError(f"{path}: expected a place for a result, but {within} is an input; choose another")
        if not path.exists() and not path.is_symlink():
            return
        read = next((read for read in self._reads if path.exists() and path.samefile(read)), None)
        if read is not None:
            raise OutputError(
                f"{path}: expected a place for a result, but it is the input {read}; choose another folder"
            )
        reason = self._why_not_ours(name)
        if reason:
            raise OutputError(
                f"{path}: expected a free place or an earlier result, but {reason}; "
                f"choose another folder, or move it away"
            )

    def _why_not_ours(self, name: str) -> str:
        """Why what is there may not be replaced; nothing where it is as GearNN wrote it."""
        digests, path = self._ours.get(name), self.folder / name
        if digests is None:
            return f"GearNN did not write this file (no word of it in {LIST})"
        if path.is_symlink() or not path.is_file():
            return f"what is there is no longer the file that GearNN wrote ({LIST})"
        if not digests:
            return f"{LIST} is of an earlier version, and does not say whether this file was changed since"
        with telling_of_disks(path):
            if _GROWING in digests or digest_of_file(path)[0] in digests:
                return ""
        return f"this file was changed since GearNN wrote it (another sha256 than in {LIST})"


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _listed(path: Path) -> dict[str, set[str]]:
    """Digests by name; none for names of an earlier version's list."""
    found: dict[str, set[str]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue  # a line that a killed run did not finish
        if isinstance(entry, str):
            found.setdefault(entry, set())
        elif isinstance(entry, dict) and isinstance(entry.get("name"), str) and isinstance(entry.get("sha256"), str):
            digests = found.setdefault(entry["name"], set())
            digests.discard(_GROWING)  # it ended
            digests.add(entry["sha256"])
    return found
