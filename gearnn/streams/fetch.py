"""Bytes over HTTP or from files, with the time that they took."""

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gearnn.errors import StreamError
from gearnn.store.addresses import OVER_HTTP, file_at, scheme_of, shown

_TIMEOUT = (10.0, 30.0)  # seconds to connect, and between two pieces of an answer
_MOST_BYTES = 1 << 30
_RANGE = re.compile(r"(\d+)-(\d*)", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """Bytes, and the seconds that fetching them took."""

    data: bytes
    seconds: float

    @property
    def throughput(self) -> float:
        """In kbit/s."""
        return 8e-3 * len(self.data) / max(self.seconds, 1e-9)


class Fetcher:
    """Fetches addresses; connections are kept. What fails for a moment is tried twice more."""

    def __init__(self) -> None:
        self._session: Any = None

    def get(self, address: str, byte_range: str = "", most: int = _MOST_BYTES) -> Fetched:
        """The bytes of an address.

        Args:
            address: ``http://``, ``https://`` or ``file://``; of files regular ones only, no devices and no pipes.
            byte_range: ``first-last``; empty for all.
            most: bytes that are read.

        Raises:
            StreamError: it does not answer, answers with an error, sends too much, or breaks off.
        """
        started, scheme = time.perf_counter(), scheme_of(address)
        if byte_range and not _RANGE.fullmatch(byte_range):
            raise StreamError(f"{shown(address)}: expected a range of bytes first-last, but got {byte_range!r:.60}")
        if scheme == "file":
            data = _content(file_at(address), byte_range, most)
        elif scheme in OVER_HTTP:
            data = self._http(address, byte_range, most)
        else:
            raise StreamError(f"{shown(address)!r}: expected an address http://, https:// or file://")
        return Fetched(data=data, seconds=time.perf_counter() - started)

    def _http(self, address: str, byte_range: str, most: int) -> bytes:
        import requests
        from urllib3.exceptions import HTTPError

        session, what = self._opened(), shown(address)
        headers = {"Range": f"bytes={byte_range}"} if byte_range else {}
        try:
            with session.get(address, headers=headers, timeout=_TIMEOUT, stream=True) as answer:
                if answer.status_code >= 400:
                    raise StreamError(f"{what}: expected a segment, but the server answers {answer.status_code}")
                data = _read(answer, what, most)
                return data if answer.status_code == 206 else _part(data, byte_range)  # some servers know no ranges
        except (requests.RequestException, HTTPError, ValueError) as error:  # the last of names that are no hosts
            reason = shown(" ".join(str(error).split()))[:200]
            raise StreamError(f"{what}: cannot be fetched: {reason}") from None  # the cause may show the password

    def _opened(self) -> Any:
        if self._session is None:
            import requests
            from requests.adapters import HTTPAdapter
            from urllib3.util import Retry

            self._session = requests.Session()
            retry = Retry(total=2, backoff_factor=0.2, status_forcelist=(502, 503, 504), raise_on_status=False,
                          respect_retry_after_header=False)  # fmt: skip
            for scheme in ("http://", "https://"):
                self._session.mount(scheme, HTTPAdapter(max_retries=retry))
        return self._session


def _content(path: Path, byte_range: str, most: int) -> bytes:
    """What a regular file holds; nothing else is opened, because a device has no end and a pipe waits for ever."""
    found = _RANGE.fullmatch(byte_range)
    first, last = (int(found[1]), found[2]) if found else (0, "")
    wanted = int(last) + 1 - first if last else most + 1
    try:
        if path.exists() and not path.is_file():
            raise StreamError(f"{path}: expected a file, but it is a folder, a device or a pipe")
        with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            file.seek(first)
            data = file.read(max(0, min(wanted, most + 1)))
    except (OSError, ValueError, OverflowError) as error:
        raise StreamError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > most:
        raise StreamError(f"{path}: expected at most {most:,} bytes, but it holds more")
    return data


def _part(data: bytes, byte_range: str) -> bytes:
    found = _RANGE.fullmatch(byte_range)
    return data if found is None else data[int(found[1]) : int(found[2]) + 1 if found[2] else None]


def _read(answer: Any, what: str, most: int) -> bytes:
    parts, size = [], 0
    for part in answer.iter_content(1 << 16):
        parts.append(part)
        size += len(part)
        if size > most:
            raise StreamError(f"{what}: expected at most {most:,} bytes, but the server sends more")
    announced = answer.headers.get("Content-Length")
    if announced is not None and "Content-Encoding" not in answer.headers and size != int(announced):
        raise StreamError(f"{what}: broke off after {size} of {announced} bytes")
    return b"".join(parts)
