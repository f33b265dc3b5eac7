"""Local copies of what is in buckets: files, and whole folders such as datasets.

A copy is used only while its bytes are those that were downloaded and the object is still the same; what
the bucket no longer has is removed here, too. Within a run a location is looked at once, so that all of
the run sees one state of it.
"""

import hashlib
import json
import logging
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gearnn.errors import StoreError
from gearnn.store.bucket import AT_A_TIME, Bucket, Item
from gearnn.store.files import Usage, digest_of_file, home, inside, remove_folder, usage_of

_JOURNAL = ".downloads.jsonl"

_fetched: dict[tuple[str, tuple[str, ...]], Path] = {}
_lock = threading.Lock()  # one download of a location at a time in a process


def fetch_file(location: str) -> Path:
    """A local copy of one object, such as a checkpoint.

    Raises:
        StoreError: there is no such object, or the bucket does not answer.
    """
    folder, _, name = location.rpartition("/")
    bucket = Bucket(folder)
    with _lock:
        known = _fetched.get((location, ()))
        if known is not None and known.is_file():
            return known
        found = [item for item in bucket.items(name) if item.key == name]
        if not found:
            raise StoreError(f"{location}: expected an object, but the bucket has none of this name")
        path = _fetched[location, ()] = _fetch(bucket, found) / name
        return path


def fetch_folder(location: str, folders: tuple[str, ...] = ("",)) -> Path:
    """A local copy of the objects below a location, such as a dataset; only what is new is downloaded.

    Args:
        location: ``s3://bucket/prefix``.
        folders: which folders below it are needed; those that do not exist are left out.

    Returns:
        A folder with the same tree.

    Raises:
        StoreError: nothing is there, or the bucket does not answer.
    """
    bucket = Bucket(location)
    with _lock:
        known = _fetched.get((location, folders))
        if known is not None and known.is_dir():
            return known
        items = [item for folder in folders for item in bucket.items(f"{folder}/" if folder else "")]
        items = [item for item in items if not item.key.endswith("/")]
        if not items:
            wanted = ", ".join(folders) if any(folders) else "objects"
            raise StoreError(f"{location}: expected {wanted} there, but the bucket has nothing below it")
        folder = _fetch(bucket, items)
        _remove_others(folder, folders, items)
        _fetched[location, folders] = folder
        return folder


def look_anew() -> None:
    """Forget what this process found in buckets; a run does this once, at its start."""
    with _lock:
        _fetched.clear()


def copies_folder(location: str) -> Path:
    """Where local copies of a location are kept: below ``GEARNN_HOME``."""
    return home() / "cache" / "s3" / local_name(location)


def local_name(location: str) -> str:
    """A folder's name for a location of the present endpoint."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    digest = hashlib.sha256(f"{endpoint} {location.rstrip('/')}".encode()).hexdigest()
    return f"{Bucket(location).name}-{digest[:16]}"


def copies() -> list[Usage]:
    """How much the local copies of every location take; only this command's home is looked at."""
    folder = home() / "cache" / "s3"
    return [usage_of(path) for path in sorted(folder.iterdir())] if folder.is_dir() else []


def remove_copies() -> Usage:
    """Remove all local copies; they are downloaded again when they are needed."""
    look_anew()
    return remove_folder(home() / "cache" / "s3")


def _fetch(bucket: Bucket, items: Sequence[Item]) -> Path:
    folder = copies_folder(bucket.location)
    journal = folder / _JOURNAL  # a line for every finished download, so that a killed run goes on from it
    known = _read_journal(journal)

    def fetch(item: Item) -> None:
        path = _path_of(folder, item.key, bucket.location)
        entry = known.get(item.key)
        if entry and entry["etag"] == item.etag and path.is_file() and digest_of_file(path)[0] == entry["sha256"]:
            return
        try:
            bucket.download(item.key, path)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise StoreError(
                f"{bucket.location}/{item.key}: expected keys that can be files in folders, "
                f"but another key is a folder of this one or the other way round"
            ) from error
        digest, size = digest_of_file(path)
        if size != item.size:
            path.unlink()
            raise StoreError(f"{bucket.location}/{item.key}: expected {item.size} bytes, but got {size}; try again")
        line = json.dumps({"key": item.key, "etag": item.etag, "sha256": digest})
        with journal.open("a") as file:
            file.write("\n" + line)  # first the break, because a killed run may have left half a line

    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for done, _ in enumerate(pool.map(fetch, items), start=1):
            if len(items) > AT_A_TIME and done * 10 // len(items) > (done - 1) * 10 // len(items):
                logging.getLogger("gearnn").info("%s: %d of %d objects are here", bucket.location, done, len(items))
    return folder


def _path_of(folder: Path, key: str, location: str) -> Path:
    """The path of a copy; keys that lead out of the folder are refused."""
    path = inside(folder, key, location)
    if path == folder / _JOURNAL:
        raise StoreError(f"{location}: expected no key {_JOURNAL}, because local copies keep notes under this name")
    return path


def _remove_others(folder: Path, folders: Sequence[str], items: Sequence[Item]) -> None:
    """Remove copies below the folders whose objects are gone."""
    present = {folder / item.key for item in items}
    for name in folders:
        for path in (inside(folder, name, str(folder)) if name else folder).rglob("*"):
            if path.is_file() and path not in present and path != folder / _JOURNAL:
                path.unlink(missing_ok=True)


def _read_journal(path: Path) -> dict[str, dict[str, str]]:
    """What was noted of every download, by key; lines that are damaged, or were never finished, say nothing."""
    known: dict[str, dict[str, str]] = {}
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict) and all(isinstance(entry.get(part), str) for part in ("key", "etag", "sha256")):
            known[entry["key"]] = entry
    return known
