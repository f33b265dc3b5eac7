"""Bytes over HTTP or from files, with the time that they took."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from gearnn.errors import StreamError

_TIMEOUT = (10.0, 30.0)  # seconds to connect, and between two pieces of an answer
_MOST_BYTES = 1 << 30


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

    def get(self, address: str, byte_range: str = "") -> Fetched:
        """The bytes of an address.

        Args:
            address: ``http://``, ``https://`` or ``file://``.
            byte_range: ``first-last``; empty for all.

        Raises:
            StreamError: it does not answer, answers with an error, or breaks off.
        """
        started = time.perf_counter()
        data = self._file(address, byte_range) if address.startswith("file:") else self._http(address, byte_range)
        return Fetched(data=data, seconds=time.perf_counter() - started)

    def _file(self, address: str, byte_range: str) -> bytes:
        path = Path(url2pathname(urlsplit(address).path))
        try:
            data = path.read_bytes()
        except OSError as error:
            raise StreamError(f"{path}: {error.strerror or error}") from error
        return _part(data, byte_range)

    def _http(self, address: str, byte_range: str) -> bytes:
        import requests

        session = self._opened()
        headers = {"Range": f"bytes={byte_range}"} if byte_range else {}
        try:
            with session.get(address, headers=headers, timeout=_TIMEOUT, stream=True) as answer:
                if answer.status_code >= 400:
                    raise StreamError(f"{address}: expected a segment, but the server answers {answer.status_code}")
                data = _read(answer, address)
                return data if answer.status_code == 206 else _part(data, byte_range)  # some servers know no ranges
        except requests.RequestException as error:
            raise StreamError(f"{address}: cannot be fetched: {' '.join(str(error).split())[:200]}") from error

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


def _part(data: bytes, byte_range: str) -> bytes:
    if not byte_range:
        return data
    first, _, last = byte_range.partition("-")
    try:
        return data[int(first) : int(last) + 1 if last else None]
    except ValueError as error:
        raise StreamError(f"expected a range of bytes first-last, but got {byte_range!r}") from error


def _read(answer: Any, address: str) -> bytes:
    parts, size = [], 0
    for part in answer.iter_content(1 << 16):
        parts.append(part)
        size += len(part)
        if size > _MOST_BYTES:
            raise StreamError(f"{address}: expected at most {_MOST_BYTES:,} bytes, but the server sends more")
    announced = answer.headers.get("Content-Length")
    if announced is not None and "Content-Encoding" not in answer.headers and size != int(announced):
        raise StreamError(f"{address}: broke off after {size} of {announced} bytes")
    return b"".join(parts)
