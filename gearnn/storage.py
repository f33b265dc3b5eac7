"""Bytes by content: checkpoints, tables and adaptors, and the record of which step made them.

A :class:`Ref` names bytes by their digest, so that records stay small and a step's inputs are exactly
known. The store lives in a folder; what it holds can be moved or copied as a whole.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gearnn.errors import StoreError
from gearnn.files import written_whole

_CHUNK = 1 << 20


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
    """Content-addressed bytes in a folder, written whole or not at all, verified when read.

    Args:
        root: the folder; created when something is first put into it.
    """

    def __init__(self, root: str | Path) -> None:
        if "://" in str(root):
            raise StoreError(f"store {root}: expected a folder; object stores are not supported yet")
        self.root = Path(root).absolute()

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
            self._write(path, content)
        return Ref(uri, digest, size)

    def get(self, ref: Ref) -> Path:
        """A file with the bytes of a reference.

        Raises:
            StoreError: the bytes are gone, or are not those that were stored.
        """
        path = self.root / ref.uri
        if not path.is_file():
            raise StoreError(f"store {self.root}: {ref.uri} is gone; run the flow again, it makes what is missing")
        found, size = _digest(path)
        if found != ref.sha256:
            raise StoreError(
                f"store {self.root}: {ref.uri} is damaged, expected {ref.size} bytes with sha256 {ref.sha256[:16]}..., "
                f"but got {size} with {found[:16]}...; delete the file and run the flow again"
            )
        return path

    def exists(self, ref: Ref) -> bool:
        """Whether the bytes are there, by name and size; :meth:`get` checks their content."""
        path = self.root / ref.uri
        return path.is_file() and path.stat().st_size == ref.size

    def remember(self, step: str, key: str, record: dict[str, Any]) -> None:
        """Keep the record of a finished step, as JSON, under its key."""
        self._write(self._record(step, key), json.dumps(record, indent=1, sort_keys=True).encode())

    def recall(self, step: str, key: str) -> dict[str, Any] | None:
        """The record of a finished step, or None if there is none or any of its bytes are gone."""
        try:
            record: dict[str, Any] = json.loads(self._record(step, key).read_bytes())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return record if all(self.exists(ref) for ref in refs_in(record)) else None

    def scratch(self, name: str) -> Path:
        """A path for something that is under way, such as the last epoch of a fine-tune."""
        path = self.root / "scratch" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _record(self, step: str, key: str) -> Path:
        return self.root / "records" / step / f"{key}.json"

    def _write(self, path: Path, content: bytes | Path) -> None:
        with written_whole(path) as file:
            for chunk in _chunks(content):
                file.write(chunk)


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


def _chunks(content: bytes | Path) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _digest(content: bytes | Path) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    for chunk in _chunks(content):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size
