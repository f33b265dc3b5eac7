"""Bytes by content: checkpoints, tables and adaptors, and the record of which step made them.

A :class:`Ref` names bytes by their digest, so that records stay small and a step's inputs are exactly
known. The store lives in a folder, or in an S3 bucket with a folder of local copies in front of it; what
it holds can be moved or copied as a whole.
"""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from gearnn.bucket import Bucket, is_remote
from gearnn.copies import local_name
from gearnn.errors import StoreError
from gearnn.files import digest_of_file, home, telling_of_disks, written_whole


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
        uri = f"objects/{digest[:2]}/{digest}{suffix}"
        path = self.root / uri
        if not path.is_file() or path.stat().st_size != size:
            with written_whole(path) as file, _opened(content) as source:
                shutil.copyfileobj(source, file)
        if self._bucket is not None and self._bucket.size(uri) != size:
            self._bucket.write(uri, content)
        return Ref(uri, digest, size)

    def get(self, ref: Ref) -> Path:
        """A file with the bytes of a reference.

        Raises:
            StoreError: the bytes are gone, or are not those that were stored.
        """
        path = self.root / ref.uri
        found, size = digest_of_file(path) if path.is_file() else ("", 0)
        if self._bucket is not None and found != ref.sha256:
            path.unlink(missing_ok=True)
            if self._bucket.size(ref.uri) is not None:
                self._bucket.download(ref.uri, path)
                found, size = digest_of_file(path)
        if not path.is_file():
            raise StoreError(f"store {self.location}: {ref.uri} is gone; run the flow again, it makes what is missing")
        if found != ref.sha256:
            raise StoreError(
                f"store {self.location}: {ref.uri} is damaged, "
                f"expected {ref.size} bytes with sha256 {ref.sha256[:16]}..., but got {size} with {found[:16]}...; "
                f"delete the file and run the flow again"
            )
        return path

    def exists(self, ref: Ref) -> bool:
        """Whether the bytes are there, by name and size; :meth:`get` checks their content."""
        if self._bucket is not None:
            return self._bucket.size(ref.uri) == ref.size
        path = self.root / ref.uri
        return path.is_file() and path.stat().st_size == ref.size

    def remember(self, step: str, key: str, record: dict[str, Any]) -> None:
        """Keep the record of a finished step, as JSON, under its key."""
        content = json.dumps(record, indent=1, sort_keys=True).encode()
        name = f"records/{step}/{key}.json"
        if self._bucket is not None:
            self._bucket.write(name, content)
            return
        with written_whole(self.root / name) as file:
            file.write(content)

    def recall(self, step: str, key: str) -> dict[str, Any] | None:
        """The record of a finished step, or None if there is none or any of its bytes are gone."""
        name = f"records/{step}/{key}.json"
        try:
            content = (self.root / name).read_bytes() if self._bucket is None else self._bucket.read(name)
            record: dict[str, Any] = json.loads(content or b"")
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return record if all(self.exists(ref) for ref in refs_in(record)) else None

    def scratch(self, name: str) -> Path:
        """A path on this machine for something that is under way, such as the last epoch of a fine-tune."""
        path = self.root / "scratch" / name
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


def _opened(content: bytes | Path) -> IO[bytes]:
    return io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")


def _digest(content: bytes | Path) -> tuple[str, int]:
    if isinstance(content, Path):
        return digest_of_file(content)
    return hashlib.sha256(content).hexdigest(), len(content)
