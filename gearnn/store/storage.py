"""Bytes by content: checkpoints, tables and adaptors, and the record of which step made them.

A :class:`Ref` names bytes by their digest, so that records stay small and a step's inputs are exactly
known. The store lives in a folder, or in an S3 bucket with a folder of local copies in front of it; what
it holds can be moved or copied as a whole. Bytes and records that are damaged count as absent: what made
them makes them again.
"""

import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from gearnn.errors import StoreError
from gearnn.store.bucket import Bucket, is_remote
from gearnn.store.copies import local_name
from gearnn.store.files import digest_of_file, home, inside, telling_of_disks, written_whole

_SEAL = "sealed"
"""Key in a record's file for the sha256 of the rest, and how its value starts."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_URI = re.compile(r"objects/([0-9a-f]{2})/\1[0-9a-f]{62}[\w.-]*", re.ASCII)


@dataclass(frozen=True, order=True)
class Ref:
    """Bytes in a store.

    Attributes:
        uri: where in the store, ``objects/ab/abcd...<suffix>``.
        sha256: digest of the bytes.
        size: how many bytes.
    """

    uri: str
    sha256: str
    size: int


class Store:
    """Content-addressed bytes, written whole or not at all, verified when read.

    Args:
        location: a folder, created when something is first put into it; or ``s3://bucket/prefix``.
    """

    def __init__(self, location: str | Path) -> None:
        self.location = str(location)
        self._bucket: Bucket | None = None
        if is_remote(location):
            self._bucket = Bucket(str(location))
            self.root = home() / "stores" / local_name(str(location))
        elif "://" in str(location):
            raise StoreError(f"store {location}: expected a folder or s3://bucket/prefix")
        else:
            self.root = Path(location).absolute()

    @property
    def frames(self) -> Path:
        """Folder of the distorted frames, always on this machine: making them again beats moving them."""
        return self.root / "frames"

    def check(self) -> None:
        """Make sure that the store can be written to and read from, before anything is made for it.

        Raises:
            StoreError: it cannot; says why.
        """
        if self._bucket is not None:
            self._bucket.check()
        probe = self.scratch(f".probe-{os.getpid()}")
        with written_whole(probe) as file:
            file.write(b"probe")
        probe.unlink()

    def put(self, content: bytes | Path, suffix: str = "") -> Ref:
        """Store bytes; the same bytes are stored once.

        Args:
            content: the bytes, or a file that holds them.
            suffix: ending of the stored file's name, for people who look into the folder.
        """
        digest, size = _digest(content)
        ref = Ref(f"objects/{digest[:2]}/{digest}{suffix}", digest, size)
        path, mark = self._path(ref), self._mark(ref)
        if not _holds(path, ref):
            with written_whole(path) as file, _opened(content) as source:
                shutil.copyfileobj(source, file)
        if self._bucket is not None and (mark.exists() or self._bucket.size(ref.uri) != size):
            self._bucket.write(ref.uri, content)
            mark.unlink(missing_ok=True)
        return ref

    def get(self, ref: Ref) -> Path:
        """A file with the bytes of a reference.

        Raises:
            StoreError: the bytes are gone, or are not those that were stored; or the reference is none.
        """
        path = self._path(ref)
        if _holds(path, ref) or self._brought(ref, path):
            return path
        if not path.is_file():
            raise StoreError(f"store {self.location}: {ref.uri} is gone; run the flow again, it makes what is missing")
        try:
            found, size = digest_of_file(path)
        except OSError as error:
            raise StoreError(f"{path}: expected to be able to read it, but got: {error.strerror}") from error
        raise StoreError(
            f"store {self.location}: {ref.uri} is damaged, "
            f"expected {ref.size} bytes with sha256 {ref.sha256[:16]}..., but got {size} with {found[:16]}...; "
            f"run the flow again, it makes what is damaged anew"
        )

    def exists(self, ref: Ref) -> bool:
        """Whether the bytes are there and are those that were stored.

        Of a bucket the name and the size are looked at; :meth:`get` checks the content, and remembers what it finds.
        """
        try:
            path = self._path(ref)
        except StoreError:
            return False
        if self._bucket is not None:
            return not self._mark(ref).exists() and self._bucket.size(ref.uri) == ref.size
        return _holds(path, ref)

    def remember(self, step: str, key: str, record: dict[str, Any]) -> None:
        """Keep the record of a finished step, as JSON, under its key."""
        record = json.loads(json.dumps(record))  # keys become text; what is sealed is what is read again
        content = json.dumps({**record, _SEAL: _seal_of(record)}, indent=1, sort_keys=True).encode()
        name = f"records/{step}/{key}.json"
        if self._bucket is not None:
            self._bucket.write(name, content)
            return
        with written_whole(inside(self.root, name, f"store {self.location}")) as file:
            file.write(content)

    def recall(self, step: str, key: str) -> dict[str, Any] | None:
        """The record of a finished step, or None if there is none, if it is damaged, or if any of its bytes are."""
        name = f"records/{step}/{key}.json"
        path = inside(self.root, name, f"store {self.location}")
        try:
            content = path.read_bytes() if self._bucket is None else self._bucket.read(name)
            record = _unsealed(json.loads(content or b""))
            return record if record is not None and all(self.exists(ref) for ref in refs_in(record)) else None
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, RecursionError):
            return None
        except OSError as error:
            raise StoreError(f"{path}: expected to be able to read it, but got: {error.strerror}") from error

    def scratch(self, name: str) -> Path:
        """A path on this machine for something that is under way, such as the last epoch of a fine-tune."""
        path = inside(self.root / "scratch", name, f"store {self.location}")
        with telling_of_disks(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def keep(self, scratch: Path) -> None:
        """Copy what is under way to where other machines find it; a store on this machine has it already."""
        if self._bucket is not None:
            self._bucket.write(f"scratch/{scratch.name}", scratch)

    def fetch_kept(self, scratch: Path) -> None:
        """Take over what another machine kept under this name, where this one has nothing."""
        name = f"scratch/{scratch.name}"
        if self._bucket is not None and not scratch.exists() and self._bucket.size(name) is not None:
            self._bucket.download(name, scratch)

    def drop(self, scratch: Path) -> None:
        """Remove what was under way, here and where it was kept."""
        scratch.unlink(missing_ok=True)
        if self._bucket is not None:
            self._bucket.delete(f"scratch/{scratch.name}")

    def _path(self, ref: Ref) -> Path:
        """Where the bytes of a reference lie on this machine; it must name them by their digest, as :meth:`put` does.

        Raises:
            StoreError: the reference comes from a damaged or a foreign record.
        """
        texts = isinstance(ref.uri, str) and isinstance(ref.sha256, str) and isinstance(ref.size, int)
        if not texts or not _DIGEST.fullmatch(ref.sha256) or not _URI.fullmatch(ref.uri) or ref.sha256 not in ref.uri:
            raise StoreError(
                f"store {self.location}: expected a reference objects/ab/abcd... to bytes by their sha256, "
                f"but got {ref.uri!r:.200}"
            )
        return inside(self.root, ref.uri, f"store {self.location}")

    def _mark(self, ref: Ref) -> Path:
        """A file that is there while the bucket's bytes of a reference are known to be damaged."""
        return self.root / "damaged" / ref.sha256

    def _brought(self, ref: Ref, path: Path) -> bool:
        """Bring an object from the bucket; whether it is what was stored, which is remembered for :meth:`exists`."""
        if self._bucket is None:
            return False
        path.unlink(missing_ok=True)
        if self._bucket.size(ref.uri) is None:
            return False
        self._bucket.download(ref.uri, path)
        is_whole = _holds(path, ref)
        if is_whole:
            self._mark(ref).unlink(missing_ok=True)
        else:
            with written_whole(self._mark(ref)):
                pass
        return is_whole


def refs_in(record: Any) -> Iterator[Ref]:
    """Every reference inside a record, however deep."""
    if isinstance(record, dict):
        if record.keys() == {"uri", "sha256", "size"}:
            yield Ref(**record)
            return
        record = list(record.values())
    if isinstance(record, list):
        for value in record:
            yield from refs_in(value)


def digest_of(value: Any) -> str:
    """sha256 of a JSON value, independent of the order of its keys; 64 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _holds(path: Path, ref: Ref) -> bool:
    """Whether a file has the bytes of a reference; one that the disk cannot read has not."""
    try:
        return path.is_file() and path.stat().st_size == ref.size and digest_of_file(path)[0] == ref.sha256
    except OSError:
        return False


def _seal_of(record: dict[str, Any]) -> str:
    """sha256 of a record; unlike :func:`digest_of` also of one with NaN, such as a score without frames."""
    return f"{_SEAL} {hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()}"


def _unsealed(content: Any) -> dict[str, Any] | None:
    """The record in a file's content; None if it was altered. Records of earlier versions have no seal."""
    if not isinstance(content, dict):
        return None
    record = {name: value for name, value in content.items() if name != _SEAL}
    seals = [value for value in content.values() if isinstance(value, str) and value.startswith(f"{_SEAL} ")]
    if not seals and _SEAL not in content:
        return record
    return record if content.get(_SEAL) == _seal_of(record) else None


def _opened(content: bytes | Path) -> IO[bytes]:
    return io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")


def _digest(content: bytes | Path) -> tuple[str, int]:
    if isinstance(content, Path):
        return digest_of_file(content)
    return hashlib.sha256(content).hexdigest(), len(content)
