"""Downloads from a real HTTP server on loopback, which breaks off, resumes, or lies."""

import io
import re
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gearnn.datasets import fetch, pennfudan
from gearnn.datasets.fetch import content_digest, fetch_dataset
from gearnn.errors import DataError
from tests.shared.pennfudan import make


class Server(ThreadingHTTPServer):
    """Serves one file; breaks every answer off after some bytes."""

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.at_most, self.ranges, self.status = content, len(content), True, 200
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/PennFudanPed.zip"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        self.server.requests.append(asked)
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        start = int(re.sub(r"\D", "", asked)) if asked and self.server.ranges else 0
        if asked and self.server.ranges and start >= len(self.server.content):
            self.send_error(416)
            return
        body = self.server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.at_most])
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    source = make(tmp_path / "source" / "PennFudanPed")
    monkeypatch.setattr(pennfudan, "CONTENT_SHA256", content_digest(source))
    monkeypatch.setattr(fetch, "_PAUSE_S", 0.01)
    archive = tmp_path / "source" / "PennFudanPed.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(source.rglob("*.png")):
            file.write(path, path.relative_to(source.parent))
    with Server(archive.read_bytes()) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_a_dataset_is_downloaded_checked_and_unpacked_once(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    to = tmp_path / "data"
    folder = fetch_dataset("pennfudan", to, url=server.url, on_bytes=lambda done, total: seen.append((done, total)))
    assert content_digest(folder) == pennfudan.CONTENT_SHA256
    assert seen[-1] == (len(server.content), len(server.content))
    assert [path.name for path in to.iterdir()] == ["PennFudanPed"]
    assert fetch_dataset("pennfudan", to, url=server.url) == folder
    assert len(server.requests) == 1


def test_a_download_that_breaks_off_goes_on_from_there(server: Server, tmp_path: Path) -> None:
    server.at_most = len(server.content) // 3
    fetch_dataset("pennfudan", tmp_path / "data", url=server.url)
    starts = [int(re.sub(r"\D", "", asked) or 0) for asked in server.requests]
    assert starts[0] == 0
    assert starts == sorted(set(starts))
    assert len(starts) >= 3


def test_a_killed_download_goes_on_in_the_next_call(server: Server, tmp_path: Path) -> None:
    to = tmp_path / "data"
    to.mkdir()
    half = len(server.content) // 2
    (to / "PennFudanPed.zip.part").write_bytes(server.content[:half])
    fetch_dataset("pennfudan", to, url=server.url)
    assert server.requests == [f"bytes={half}-"]


def test_a_download_that_was_complete_is_not_repeated(server: Server, tmp_path: Path) -> None:
    to = tmp_path / "data"
    to.mkdir()
    (to / "PennFudanPed.zip.part").write_bytes(server.content)
    fetch_dataset("pennfudan", to, url=server.url)
    assert len(server.requests) == 1


def test_a_server_that_cannot_resume_starts_anew(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    to = tmp_path / "data"
    to.mkdir()
    (to / "PennFudanPed.zip.part").write_bytes(server.content[:1000])
    fetch_dataset("pennfudan", to, url=server.url)


def test_without_a_network_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_PAUSE_S", 0.01)
    with pytest.raises(DataError) as caught:
        fetch_dataset("pennfudan", tmp_path, url="http://127.0.0.1:9/PennFudanPed.zip")
    for part in ("expected http://127.0.0.1:9/PennFudanPed.zip to answer", "pass it with --archive", "goes on"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_refusal_is_not_repeated(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(DataError, match="404"):
        fetch_dataset("pennfudan", tmp_path / "data", url=server.url)
    assert len(server.requests) == 1
    server.status = 503
    with pytest.raises(DataError, match="503"):
        fetch_dataset("pennfudan", tmp_path / "data", url=server.url)
    assert len(server.requests) == 5


def test_another_content_is_refused_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    to = tmp_path / "data"
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("PennFudanPed/PNGImages/FudanPed00001.png", b"x")
    server.content = (tmp_path / "other.zip").read_bytes()
    server.at_most = len(server.content)
    with pytest.raises(DataError, match=r"expected Penn-Fudan's archive, but its 1 frames .* download it again"):
        fetch_dataset("pennfudan", to, url=server.url)
    assert list(to.iterdir()) == []


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "PennFudanPed/../../outside", "C:/outside"])
def test_an_archive_does_not_write_outside_of_its_folder(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr(name, b"x")
    with pytest.raises(DataError, match="cannot be unpacked: its list of files: expected the name of a file inside"):
        fetch_dataset("pennfudan", tmp_path / "data", archive=tmp_path / "other.zip")
    assert list((tmp_path / "data").iterdir()) == []


def test_an_archive_that_was_brought_by_hand_is_taken(server: Server, tmp_path: Path) -> None:
    archive = tmp_path / "source" / "PennFudanPed.zip"
    folder = fetch_dataset("pennfudan", tmp_path / "data", archive=archive)
    assert content_digest(folder) == pennfudan.CONTENT_SHA256
    assert archive.is_file()
    (tmp_path / "broken.zip").write_bytes(archive.read_bytes()[:500])
    with pytest.raises(DataError, match=r"broken.zip: expected Penn-Fudan's archive, but it cannot be unpacked"):
        fetch_dataset("pennfudan", tmp_path / "other", archive=tmp_path / "broken.zip")
    assert (tmp_path / "broken.zip").is_file()
    with pytest.raises(DataError, match=r"none.zip: no such file"):
        fetch_dataset("pennfudan", tmp_path / "other", archive=tmp_path / "none.zip")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("cityscapes", r"needs a login at cityscapes-dataset.com; unpack .* into one folder, and name it in data.root"),
        ("camvid", "may not pass CamVid on"),
        ("kitti", "expected pennfudan, or one of camvid, cityscapes"),
    ],
)
def test_what_cannot_be_downloaded_is_answered_with_what_to_do(tmp_path: Path, name: str, advice: str) -> None:
    with pytest.raises(DataError, match=advice):
        fetch_dataset(name, tmp_path)


def test_damaged_archives_are_one_line_and_downloaded_anew(server: Server, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as file:
        for index in range(40):
            file.writestr(f"PennFudanPed/PNGImages/FudanPed{index:05d}.png", b"text " * 500)
    for attempt in range(60):
        damaged = bytearray(whole.getvalue())
        for position in rng.integers(0, len(damaged), size=3):
            damaged[int(position)] ^= int(rng.integers(1, 255))
        server.content, server.at_most = bytes(damaged), len(damaged)
        with pytest.raises(DataError, match="expected Penn-Fudan's archive, but"):
            fetch_dataset("pennfudan", tmp_path / str(attempt), url=server.url)
        assert list((tmp_path / str(attempt)).iterdir()) == []


def test_a_folder_with_changes_is_never_replaced(server: Server, tmp_path: Path) -> None:
    folder = fetch_dataset("pennfudan", tmp_path / "data", url=server.url)
    mask = next((folder / "PedMasks").iterdir())
    mask.write_bytes(b"my own")
    with pytest.raises(DataError, match="exists, but its content is not the published one; move it away first"):
        fetch_dataset("pennfudan", tmp_path / "data", url=server.url)
    assert mask.read_bytes() == b"my own"


def test_an_address_that_is_none_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected nowhere to answer"):
        fetch_dataset("pennfudan", tmp_path, url="nowhere")
