"""Where commands put what people asked for: nothing takes the place of a file that GearNN did not write there itself.

Every folder of results keeps a list of them, ``.gearnn-written``, so that the same command may be run again. A
result never takes the place of an input, not even of one that is on the list, and is never written through a link.
"""

import json
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from gearnn.errors import OutputError
from gearnn.files import telling_of_disks

LIST = ".gearnn-written"
"""Name of the list; a line is the path of a result, relative to the list's folder, as a JSON string."""


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
        self._ours = _listed(folder / LIST)
        self._fresh: set[str] = set()

    def check(self, *names: str) -> None:
        """Find out before any work starts whether results can be written.

        Args:
            names: of the results, relative to the folder.

        Raises:
            OutputError: one would take the place of an input or of a file that GearNN did not write, or two have
                one name; upper and lower case are the same, as many disks have it.
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
            OutputError: it holds an input, or a file that GearNN did not write.
        """
        for path in sorted((self.folder / name).rglob("*")):
            if not path.is_dir() or path.is_symlink():
                self._check(path.relative_to(self.folder).as_posix())

    def fresh(self, name: str) -> Path:
        """The path of a result that is written now: noted as GearNN's, and with nothing there any more.

        Raises:
            OutputError: as for :meth:`check`.
            StoreError: the folder may not be written to.
        """
        path = self.folder / name
        self._check(name)
        if _folded(name) in self._fresh:
            raise OutputError(f"{path}: expected one result of this name, but there would be two")
        with telling_of_disks(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if name not in self._ours:
                with (self.folder / LIST).open("a", encoding="utf-8") as file:
                    file.write(json.dumps(name) + "\n")
            path.unlink(missing_ok=True)  # else a link would be written through
        self._ours.add(name)
        self._fresh.add(_folded(name))
        return path

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
        if name not in self._ours:
            raise OutputError(
                f"{path}: expected a free place or an earlier result, but GearNN did not write this file "
                f"(no word of it in {LIST}); choose another folder, or move it away"
            )


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _listed(path: Path) -> set[str]:
    names = set()
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            names.add(str(json.loads(line)))
        except json.JSONDecodeError:
            continue  # a line that a killed run did not finish
    return names
