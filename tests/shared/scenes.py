"""Frames, and a file server that fails as asked."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gearnn.datasets import Camera
from gearnn.datasets.streets import Streets


@cache
def photograph() -> Image.Image:
    return Streets("photo", 1, 3, Camera()).frame(0)


def pan(number: int, size: tuple[int, int] = (64, 48)) -> list[Image.Image]:
    """A camera that moves over a scene; every frame differs clearly from every other."""
    width, height = size
    return [photograph().crop((3 * i % 90, 2 * i % 71, 3 * i % 90 + width, 2 * i % 71 + height)) for i in range(number)]


def order_of(shown: Sequence[Image.Image], originals: Sequence[Image.Image]) -> list[int]:
    """Which original each frame is most like."""
    pixels = [np.asarray(image, dtype=float) for image in originals]
    return [int(np.argmin([np.abs(np.asarray(frame, dtype=float) - p).mean() for p in pixels])) for frame in shown]


def same_pixels(one: Sequence[Image.Image], other: Sequence[Image.Image]) -> bool:
    return len(one) == len(other) and all(
        np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(one, other, strict=True)
    )


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave are no news."""


class _Failing(SimpleHTTPRequestHandler):
    def __init__(self, *args: Any, failures: dict[str, list[str]], asked: list[str], **kwargs: Any) -> None:
        self._failures, self._asked = failures, asked
        super().__init__(*args, **kwargs)

    def do_GET(self) -> None:
        self._asked.append(self.path)
        planned = self._failures.get(self.path.rpartition("/")[2], [])
        how = planned.pop(0) if planned else ""
        if how == "half":
            data = Path(self.translate_path(self.path)).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
        elif how:
            self.send_response(int(how.split()[0]))
            if "later" in how:
                self.send_header("Retry-After", "3600")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(folder: Path, failures: dict[str, list[str]] | None = None) -> Iterator[tuple[str, list[str]]]:
    """A file server: its address, and the paths that it was asked for.

    Args:
        folder: what is served.
        failures: name of a file -> what its first answers are: a status, ``503 later``, or ``half``.
    """
    asked: list[str] = []
    handler = partial(_Failing, failures={} if failures is None else failures, asked=asked, directory=str(folder))
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
