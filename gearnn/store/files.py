"""Where files go, and how they are written so that no reader, in this process or another, ever sees a part of one.

A name that comes from outside, such as a record's, an archive's or a manifest's, becomes a path in one
place, :func:`inside`.
"""

import errno
import hashlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import IO

from gearnn.errors import GearNNError, StoreError

UNFINISHED = ".writing-"
"""How names of files start that are being written, or that a killed process left."""

_CHUNK = 1 << 20
_NO_PARTS = ("", ".", "..")
_LONGEST_ENDING = 32
_LONGEST_NAME = 255  # bytes, on all common file systems
_FREE = "free some space (`gearnn cache show`), or choose another place, and start again: what is finished stays"
_ELSEWHERE = "choose a folder that may be written to"
_ADVICE = {
    errno.ENOSPC: _FREE,
    errno.EDQUOT: _FREE,
    errno.EROFS: _ELSEWHERE,
    errno.EACCES: _ELSEWHERE,
    errno.ENOTDIR: _ELSEWHERE,
    errno.EEXIST: _ELSEWHERE,
    errno.ENOENT: _ELSEWHERE,
}


def home() -> Path:
    """Folder of the embedded MLflow database, results and local copies: ``GEARNN_HOME``, else ``.gearnn`` here."""
    return Path(os.environ.get("GEARNN_HOME", ".gearnn")).absolute()


def inside(folder: Path, name: object, what: str, error_type: type[GearNNError] = StoreError) -> Path:
    """The path of a file in a folder, by a name that comes from outside.

    Refused is what would lead out of the folder here or on another machine: absolute paths, ``..``, drive
    letters, links to elsewhere; what can be no file's name; and empty and ``.`` parts, with which two names would
    be one file.

    Args:
        folder: whose files may be named.
        name: relative to it, with slashes.
        what: whose name it is, for the message.
        error_type: of the error that is raised.

    Raises:
        GearNNError: it leads out of the folder, or is no name.
    """
    refused = error_type(f"{what}: expected the name of a file inside of its folder, but got {name!r:.200}")
    if not isinstance(name, str) or "\0" in name:
        raise refused
    pure = PureWindowsPath(name)  # takes both kinds of slashes, and knows drives
    if pure.anchor or any(part in _NO_PARTS for part in re.split(r"[/\\]", name)):
        raise refused
    try:
        if any(len(os.fsencode(part)) > _LONGEST_NAME for part in pure.parts):
            raise refused
        path = folder / name
        is_within = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, UnicodeError) as error:  # links in a circle, halves of characters
        raise refused from error
    if not is_within:
        raise refused
    return path


def digest_of_file(path: Path) -> tuple[str, int]:
    """(sha256, number of bytes) of a file."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a folder holds: number of files, and their bytes in all."""

    name: str
    num_files: int
    num_bytes: int


def usage_of(folder: Path) -> Usage:
    """How much a folder holds; nothing where it does not exist."""
    sizes = []
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # another process may be filling or clearing the folder
            if path.is_file():
                sizes.append(path.stat().st_size)
    return Usage(name=folder.name, num_files=len(sizes), num_bytes=sum(sizes))


def remove_folder(folder: Path) -> Usage:
    """Remove a folder with what is in it; gives what was removed."""
    held = usage_of(folder)
    shutil.rmtree(folder, ignore_errors=True)  # another process may be filling it
    left = usage_of(folder)
    return Usage(name=folder.name, num_files=held.num_files - left.num_files, num_bytes=held.num_bytes - left.num_bytes)


@contextmanager
def telling_of_disks(path: Path) -> Iterator[None]:
    """A disk that is full, or a place that may not be written to, as one line.

    Raises:
        StoreError: it is; nothing half-written is left under the file's name.
    """
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0)
        if advice is None:
            raise
        raise StoreError(f"{path}: expected to be able to write there, but got: {error.strerror}; {advice}") from error


@contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, which takes the place of ``path`` when the context ends without an error.

    The content reaches the disk before the name does. After a crash there is the old file or none.

    Raises:
        StoreError: the disk is full.
    """
    with telling_of_disks(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=UNFINISHED)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.fchmod(file.fileno(), 0o666 & ~_umask())  # temporary files are private, the store may be shared
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


@contextmanager
def placed_whole(path: Path) -> Iterator[Path]:
    """A free path of the same ending, whose file takes the place of ``path`` when the context ends without an error.

    For what writes files by their path; else as :func:`written_whole`. A link at ``path`` is replaced, not followed.

    Raises:
        StoreError: the disk is full.
    """
    with telling_of_disks(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        ending = path.suffix if len(path.suffix) <= _LONGEST_ENDING else ""
        temporary = path.parent / f"{UNFINISHED}{secrets.token_hex(8)}{ending}"
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def content_of(write: Callable[[Path], None], suffix: str) -> bytes:
    """What a library function writes to a file, as bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"content{suffix}"
        write(path)
        return path.read_bytes()


def write_together(files: Sequence[tuple[Path, bytes]]) -> None:
    """Write many small files, each whole or not at all; quicker than one after the other.

    All contents reach the disk before the first name does.

    Raises:
        StoreError: the disk is full; no file of them was written.
    """
    temporaries: list[Path] = []
    try:
        for path, content in files:
            with telling_of_disks(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary = path.parent / f"{UNFINISHED}{secrets.token_hex(4)}-{path.name}"
                temporaries.append(temporary)
                temporary.write_bytes(content)
        for temporary in temporaries:
            with telling_of_disks(temporary), temporary.open("rb") as file:
                os.fsync(file.fileno())
        for temporary, (path, _) in zip(temporaries, files, strict=True):
            temporary.replace(path)
    except BaseException:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)
        raise


def _umask() -> int:
    """The process's umask, which can only be read by setting it; other threads may see 0o22 for a moment."""
    mask = os.umask(0o22)
    os.umask(mask)
    return mask
