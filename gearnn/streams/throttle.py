"""A file server on loopback whose bandwidth follows a trace, to see how a stream adapts."""

import csv
import itertools
import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO

from gearnn.errors import StreamError

Trace = Sequence[tuple[float, float]]
"""(seconds, kbit/s): from when on which bandwidth holds; repeated from its last entry's time on."""

_SLICE = 0.02  # seconds of sending between two looks at the clock


def read_trace(path: Path) -> list[tuple[float, float]]:
    """A bandwidth trace: lines ``seconds,kbit/s``, seconds rising from 0.

    Raises:
        StreamError: the file is no trace.
    """
    try:
        with path.open(newline="") as file:
            rows = [(float(row[0]), float(row[1])) for row in csv.reader(file) if row and not row[0].startswith("#")]
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise StreamError(f"{path}: expected lines `seconds,kbit/s`: {error}") from error
    rising = all(a[0] < b[0] for a, b in itertools.pairwise(rows))
    if not rows or rows[0][0] != 0 or not rising or not all(0 < rate < math.inf for _, rate in rows):
        raise StreamError(f"{path}: expected seconds that rise from 0, and a bandwidth above 0 in every line")
    return rows


@contextmanager
def throttled(folder: Path, trace: Trace) -> Iterator[str]:
    """Serve a folder while a context is open; yields its address.

    Args:
        folder: what is served.
        trace: bandwidth of all answers together; its clock starts with the first request.
    """
    pace = _Pace(trace)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, pace=pace, directory=str(folder)))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Pace:
    """How many bytes may be sent when."""

    def __init__(self, trace: Trace) -> None:
        self._trace, self._lock = list(trace), threading.Lock()
        self._started: float | None = None
        self._free_at = 0.0

    def rate(self) -> float:
        """Bytes a second now."""
        with self._lock:
            self._started = time.monotonic() if self._started is None else self._started
            at = time.monotonic() - self._started
        if len(self._trace) > 1 and self._trace[-1][0] > 0:
            at %= self._trace[-1][0] + (
                self._trace[-1][0] - self._trace[-2][0]
            )  # the last entry lasts as the one before
        return 125.0 * next(kbps for seconds, kbps in reversed(self._trace) if seconds <= at)

    def wait(self, size: int, rate: float) -> None:
        """Wait until ``size`` bytes have passed; answers share the bandwidth."""
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + size / rate
            delay = self._free_at - time.monotonic()
        time.sleep(max(0.0, delay))


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept, as servers of video do
    disable_nagle_algorithm = True  # else the last part of a small answer waits for what TCP acknowledges late

    def __init__(self, *args: Any, pace: _Pace, **kwargs: Any) -> None:
        self._pace = pace
        super().__init__(*args, **kwargs)

    def translate_path(self, path: str) -> str:
        """The file of a path; links that lead out of the folder, devices and pipes are not found."""
        root, found = Path(self.directory), Path(super().translate_path(path))
        is_served = found.resolve().is_relative_to(root.resolve()) and (found.is_file() or found.is_dir())
        return str(found if is_served else root / "not found" / "")

    def copyfile(self, source: BinaryIO, outputfile: BinaryIO) -> None:  # type: ignore[override]
        """Send a file at the pace of the trace."""
        while True:
            rate = self._pace.rate()
            part = source.read(max(256, int(rate * _SLICE)))
            if not part:
                return
            self._pace.wait(len(part), rate)
            outputfile.write(part)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""
