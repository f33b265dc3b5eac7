import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from gearnn.distortions import encode
from gearnn.errors import StreamError
from gearnn.streams import RateBased, Segment, open_source, play
from gearnn.streams.dash import Presentation, Representation
from gearnn.streams.fetch import Fetcher
from tests.shared.scenes import pan, serving
from tests.shared.servers import cutting_proxy

BANDWIDTHS = (100.0, 400.0, 1600.0)
CHOICES = [Representation(id=f"{b:g}", bandwidth=b, pieces=()) for b in BANDWIDTHS]


def presentation(folder: Path, number: int = 5, size: tuple[int, int] = (64, 48)) -> Path:
    """JPEG frames at two qualities."""
    for name, quality in (("low", 20), ("high", 90)):
        (folder / name).mkdir()
        for index, frame in enumerate(pan(number, size)):
            (folder / name / f"{name}{index}.jpg").write_bytes(encode(frame, f"jpeg:quality={quality}"))
    representations = "".join(
        f'<Representation id="{name}" mimeType="image/jpeg" bandwidth="{bandwidth}">'
        f'<SegmentTemplate media="{name}/{name}$Number$.jpg" startNumber="0" duration="1"/></Representation>'
        for name, bandwidth in (("high", 64000), ("low", 16000))
    )
    (folder / "m.mpd").write_text(
        f'<MPD type="static" mediaPresentationDuration="PT{number}S"><Period><AdaptationSet contentType="image">'
        f"{representations}</AdaptationSet></Period></MPD>"
    )
    return folder / "m.mpd"


def stored(folder: Path, segments: Sequence[Segment]) -> list[bool]:
    """Whether each segment arrived as it is in the folder."""
    return [
        s.received is not None
        and s.received.data == (folder / s.representation / f"{s.representation}{i}.jpg").read_bytes()
        for i, s in enumerate(segments)
    ]


@pytest.mark.parametrize(
    ("throughputs", "chosen"),
    [
        ([], "100"),  # nothing is known
        ([0.0, 0.0], "100"),
        ([499.0], "100"),
        ([500.0], "400"),  # 0.8 of it is just enough
        ([1999.0], "400"),
        ([2000.0], "1600"),
        ([1.0], "100"),  # less than the least
        ([9000.0, 500.0, 500.0, 500.0], "400"),  # the first is forgotten
        ([9000.0, 9000.0, 250.0], "400"),  # harmonic mean 710
        ([9000.0, 0.0, 2000.0], "1600"),
    ],
)
def test_the_best_representation_that_fits_recent_throughput_is_chosen(throughputs: list[float], chosen: str) -> None:
    assert RateBased()(CHOICES, throughputs).id == chosen


def test_safety_and_window_are_as_told() -> None:
    assert RateBased(safety=1.0)(CHOICES, [1600.0]).id == "1600"
    assert RateBased(safety=0.5)(CHOICES, [1600.0]).id == "400"
    assert RateBased(window=1)(CHOICES, [1.0, 1.0, 2000.0]).id == "1600"


def test_a_chooser_is_told_what_there_is_and_how_fast_it_came(tmp_path: Path) -> None:
    presentation(tmp_path)
    told: list[tuple[list[str], int]] = []
    script = iter(["low", "high", "high", "low", "high"])

    def choose(having: Sequence[Representation], throughputs: Sequence[float]) -> Representation:
        told.append(([r.id for r in having], len(throughputs)))
        assert all(t > 0 for t in throughputs)
        wanted = next(script)
        return next(r for r in having if r.id == wanted)

    segments = list(open_source(str(tmp_path / "m.mpd"), choose=choose))
    assert told == [(["low", "high"], i) for i in range(5)]
    assert [s.representation for s in segments] == ["low", "high", "high", "low", "high"]
    assert [s.bandwidth for s in segments] == [16.0, 64.0, 64.0, 16.0, 64.0]
    assert stored(tmp_path, segments) == [True] * 5
    assert all(s.throughput > 0 for s in segments)


def test_throughput_is_measured_in_kilobits_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    presentation(tmp_path, 2)
    clock = iter(range(100))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)) / 4)  # a quarter of a second each
    opened = Presentation.open(str(tmp_path / "m.mpd"))
    segments = list(play(opened, lambda having, _: having[0]))
    sizes = [(tmp_path / "low" / f"low{i}.jpg").stat().st_size for i in range(2)]
    assert [s.throughput for s in segments] == pytest.approx([size * 8 / 1000 / 0.25 for size in sizes])


@pytest.mark.parametrize(
    ("failures", "reason"),
    [
        (["404"], r"low2.jpg: expected a segment, but the server answers 404"),
        (["500"], r"low2.jpg: expected a segment, but the server answers 500"),
        (["half"], r"low2.jpg: (cannot be fetched|broke off after)"),
        (["503"] * 9, r"low2.jpg: expected a segment, but the server answers 503"),
    ],
)
def test_a_segment_that_fails_is_lost_and_the_next_ones_play(tmp_path: Path, failures: list[str], reason: str) -> None:
    presentation(tmp_path)
    with serving(tmp_path, {"low2.jpg": failures}) as (address, _):
        segments = list(play(Presentation.open(f"{address}/m.mpd"), lambda having, _: having[0]))
    assert stored(tmp_path, segments) == [True, True, False, True, True]
    lost = segments[2]
    assert (lost.received, lost.name, lost.start, lost.throughput) == (None, "00002", 2.0, 0.0)
    assert re.search(reason, lost.lost)
    assert [s.lost for s in segments if s is not lost] == [""] * 4


def test_a_server_that_is_busy_for_a_moment_is_asked_again(tmp_path: Path) -> None:
    presentation(tmp_path)
    with serving(tmp_path, {"low2.jpg": ["503", "502"]}) as (address, asked):
        segments = list(play(Presentation.open(f"{address}/m.mpd"), lambda having, _: having[0]))
    assert stored(tmp_path, segments) == [True] * 5
    assert asked.count("/low/low2.jpg") == 3


def test_a_busy_server_does_not_hold_a_stream_for_as_long_as_it_likes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    presentation(tmp_path, 2)
    slept: list[float] = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", slept.append)
    with serving(tmp_path, {"low0.jpg": ["503 later"]}) as (address, _):
        segments = list(play(Presentation.open(f"{address}/m.mpd"), lambda having, _: having[0]))
    assert stored(tmp_path, segments) == [True, True]
    assert max(slept, default=0.0) < 10


def test_a_connection_that_is_cut_costs_its_segment_only(tmp_path: Path) -> None:
    presentation(tmp_path, size=(160, 96))
    with serving(tmp_path) as (address, _), cutting_proxy(address, at_most=300, times=1) as proxy:
        text = (tmp_path / "m.mpd").read_text()
        (tmp_path / "m.mpd").write_text(text.replace("<Period>", f"<BaseURL>{proxy}/</BaseURL><Period>"))
        opened = Presentation.open(f"{address}/m.mpd")
        segments = list(play(opened, lambda having, _: having[-1]))
    assert len((tmp_path / "high" / "high0.jpg").read_bytes()) > 4500  # the proxy cuts behind 4096
    assert stored(tmp_path, segments) == [False, True, True, True, True]


def test_what_initialises_segments_is_fetched_once_and_again_only_where_it_failed(tmp_path: Path) -> None:
    presentation(tmp_path, 4)
    (tmp_path / "head").write_bytes(b"head ")
    text = (tmp_path / "m.mpd").read_text()
    (tmp_path / "m.mpd").write_text(text.replace("<SegmentTemplate ", '<SegmentTemplate initialization="head" '))
    with serving(tmp_path, {"head": ["404"]}) as (address, asked):
        segments = list(play(Presentation.open(f"{address}/m.mpd"), lambda having, _: having[0]))
    assert [s.received is None for s in segments] == [True, False, False, False]
    assert "head: expected a segment, but the server answers 404" in segments[0].lost
    data = [s.received.data for s in segments if s.received is not None]
    assert data == [b"head " + (tmp_path / "low" / f"low{i}.jpg").read_bytes() for i in (1, 2, 3)]
    assert asked.count("/head") == 2


def test_a_server_that_is_gone_loses_every_segment_and_no_more(tmp_path: Path) -> None:
    presentation(tmp_path, 3)
    with serving(tmp_path) as (address, _):
        opened = Presentation.open(f"{address}/m.mpd")
    segments = list(play(opened, lambda having, _: having[0]))
    assert [s.received for s in segments] == [None] * 3
    assert all("cannot be fetched" in s.lost for s in segments)


def one_file(address: str) -> str:
    return (
        '<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S"><Period>'
        '<AdaptationSet mimeType="video/mp4"><Representation id="r" bandwidth="1">'
        f"<BaseURL>{address}</BaseURL></Representation></AdaptationSet></Period></MPD>"
    )


def test_a_manifest_from_the_network_reads_no_files_here(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("local secret")
    (tmp_path / "m.mpd").write_text(one_file((tmp_path / "secret").as_uri()))
    with serving(tmp_path) as (address, _):
        (segment,) = play(Presentation.open(f"{address}/m.mpd"), lambda having, _: having[0])
    assert segment.received is None
    assert "expected a manifest that names http:// and https://, but it names 'file:///" in segment.lost


def test_a_manifest_in_a_file_reads_regular_files_below_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    (folder / "low").mkdir(parents=True)
    (folder / "low" / "a:1.mp4").write_text("video")
    (tmp_path / "secret").write_text("local secret")
    (folder / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "pipe")
    (folder / "zero").symlink_to("/dev/zero")
    reasons = {}
    for name in (
        "low/a%3A1.mp4",
        "../secret",
        "..%2Fsecret",
        "link",
        "pipe",
        "zero",
        "low",
        "a%00b",
        "file:///dev/zero",
    ):
        (folder / "m.mpd").write_text(one_file(name))
        (segment,) = play(Presentation.open(str(folder / "m.mpd")), lambda having, _: having[0])
        reasons[name] = segment.lost if segment.received is None else segment.received.data.decode()
    assert reasons.pop("low/a%3A1.mp4") == "video"
    assert "a folder, a device or a pipe" in reasons.pop("pipe") + reasons.pop("low")
    assert "without control characters" in reasons.pop("a%00b")
    assert all("expected the name of a file inside of its folder" in reason for reason in reasons.values())


def test_a_redirection_leads_to_no_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("local secret")
    with (
        redirecting((tmp_path / "secret").as_uri()) as address,
        pytest.raises(StreamError, match="cannot be fetched: No connection adapters were found for 'file:"),
    ):
        Fetcher().get(f"{address}/a")


@contextmanager
def redirecting(target: str) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", target)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        thread.join()


@pytest.mark.parametrize("byte_range", ["5-2x", "-5", "a-b", "5", "1-2-3", "\u0661-2"])
def test_a_range_that_is_none_is_a_clear_error(tmp_path: Path, byte_range: str) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    assert Fetcher().get((tmp_path / "a").as_uri(), "2-4").data == b"234"
    assert Fetcher().get((tmp_path / "a").as_uri(), "8-").data == b"89"
    with pytest.raises(StreamError, match="expected a range of bytes first-last, but got"):
        Fetcher().get((tmp_path / "a").as_uri(), byte_range)


def test_more_bytes_than_are_wanted_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    with serving(tmp_path) as (address, _):
        for place in (address, tmp_path.as_uri()):
            assert Fetcher().get(f"{place}/a", most=10).data == b"0123456789"
            with pytest.raises(StreamError, match="expected at most 9 bytes"):
                Fetcher().get(f"{place}/a", most=9)
