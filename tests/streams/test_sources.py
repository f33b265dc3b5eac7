import io
import os
import socket
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from gearnn.distortions import decode, encode, encode_clip
from gearnn.distortions.h264 import x264_settings
from gearnn.distortions.video import decode_clip
from gearnn.errors import StreamError
from gearnn.gearbox import GearBox
from gearnn.gears.choice import Policy
from gearnn.streams import Session, open_source
from gearnn.streams.media import as_transport_stream, read_video, write_video
from gearnn.streams.segment import Segment
from tests.shared.scenes import order_of, pan, same_pixels, serving

RATE = Fraction(25)


def shown(segments: Sequence[Segment]) -> list[Image.Image]:
    return [frame for s in segments if s.received is not None for frame in s.received.clip.frames]


def times(segments: Sequence[Segment]) -> list[float]:
    return [round(s.start + t, 6) for s in segments if s.received is not None for t in s.received.clip.times]


def crfs(gearbox: GearBox, segments: Sequence[Segment]) -> list[float]:
    sensed = [gearbox.sensor(s.received) for s in segments if s.received is not None]
    return [float(dict(s.level.parts[0].parameters)["crf"]) for s in sensed]


def motion(frames: Sequence[Image.Image], path: Path, codec: str, **options: str) -> list[bytes]:
    """Write a video of another codec by PyAV; its packets."""
    packets = []
    with av.open(str(path), "w") as written:
        stream = written.add_stream(codec, rate=25)
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.options = options
        for frame in frames:
            packets += stream.encode(av.VideoFrame.from_image(frame))
        packets += stream.encode(None)
        data = [bytes(packet) for packet in packets]
        for packet in packets:
            written.mux(packet)
    return data


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "h264"])
def test_a_video_comes_in_pieces_at_its_key_frames_with_every_frame_in_the_order_of_showing(
    gearbox: GearBox, tmp_path: Path, suffix: str
) -> None:
    originals = [pan(12), list(reversed(pan(9))), pan(1)]  # with B-frames, which are coded out of order
    clips = [encode_clip(frames, f"h264:crf={crf}") for frames, crf in zip(originals, (20, 35, 28), strict=True)]
    write_video(str(tmp_path / f"video.{suffix}"), clips, RATE)
    pieces = list(open_source(str(tmp_path / f"video.{suffix}")))
    assert [piece.name for piece in pieces] == ["000000", "000012", "000021"]
    assert [round(piece.start, 6) for piece in pieces] == [0.0, 0.48, 0.84]
    assert times(pieces) == [round(i / 25, 6) for i in range(22)]
    for piece, clip, frames in zip(pieces, clips, originals, strict=True):
        assert same_pixels(shown([piece]), decode_clip(clip))
        assert order_of(shown([piece]), frames) == list(range(len(frames)))
    assert crfs(gearbox, pieces) == [20.0, 35.0, 28.0]


def test_frames_of_another_rate_have_their_times_in_containers(tmp_path: Path) -> None:
    write_video(str(tmp_path / "video.mp4"), [encode_clip(pan(5), "h264:crf=30")] * 2, Fraction(10))
    assert times(list(read_video(str(tmp_path / "video.mp4")))) == [i / 10 for i in range(10)]


@pytest.mark.parametrize("suffix", ["mkv", "ts", "h264"])
def test_pieces_behind_the_first_are_sensed_by_the_settings_that_stand_in_the_first_only(
    gearbox: GearBox, tmp_path: Path, suffix: str
) -> None:
    clip = encode_clip(pan(12), "h264:crf=33,gop=4")
    assert clip.count(x264_settings(clip)) == 1
    write_video(str(tmp_path / f"video.{suffix}"), [clip], RATE)
    pieces = list(read_video(str(tmp_path / f"video.{suffix}")))
    assert [len(shown([piece])) for piece in pieces] == [4, 4, 4]
    sensed = [gearbox.sensor(piece.received) for piece in pieces if piece.received is not None]
    assert [(str(s.level), s.misfit) for s in sensed] == [("h264:crf=33", 0.0)] * 3
    assert same_pixels(shown(pieces), decode_clip(clip))


def test_a_clip_of_one_level_behind_another_is_sensed_as_its_own_in_every_part(
    gearbox: GearBox, tmp_path: Path
) -> None:
    clips = [encode_clip(pan(8), "h264:crf=20,gop=4"), encode_clip(pan(8), "h264:crf=36,gop=4")]
    write_video(str(tmp_path / "video.mkv"), clips, RATE)
    assert crfs(gearbox, list(read_video(str(tmp_path / "video.mkv")))) == [20.0, 20.0, 36.0, 36.0]


def test_long_groups_of_pictures_are_handed_on_by_thirty_frames(gearbox: GearBox, tmp_path: Path) -> None:
    clip = encode_clip(pan(65, (32, 32)), "h264:crf=30")
    write_video(str(tmp_path / "video.mp4"), [clip], RATE)
    pieces = list(read_video(str(tmp_path / "video.mp4")))
    assert [piece.name for piece in pieces] == ["000000", "000030", "000060"]
    assert [round(piece.start, 6) for piece in pieces] == [0.0, 1.2, 2.4]
    assert same_pixels(shown(pieces), decode_clip(clip))
    assert crfs(gearbox, pieces) == [30.0] * 3


@pytest.mark.parametrize("suffix", ["avi", "mkv"])
def test_motion_jpeg_is_one_piece_a_frame_whose_quality_is_sensed(
    gearbox: GearBox, tmp_path: Path, suffix: str
) -> None:
    qualities, frames = [12, 80, 30, 12], pan(4)
    path = tmp_path / f"video.{suffix}"
    with av.open(str(path), "w") as written:  # JPEG files as they are, each of another quality
        stream = written.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for index, (frame, quality) in enumerate(zip(frames, qualities, strict=True)):
            packet = av.Packet(encode(frame, f"jpeg:quality={quality}"))
            packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1, 25), index, index
            packet.is_keyframe = True
            written.mux(packet)
    pieces = list(open_source(str(path)))
    assert [(piece.name, round(piece.start, 6)) for piece in pieces] == [(f"{i:06d}", i / 25) for i in range(4)]
    sensed = [str(gearbox.sensor(piece.received).level) for piece in pieces if piece.received is not None]
    assert sensed == [f"jpeg:quality={quality}" for quality in qualities]
    expected = [decode(encode(f, f"jpeg:quality={q}")) for f, q in zip(frames, qualities, strict=True)]
    assert same_pixels(shown(pieces), expected)


def test_a_damaged_picture_of_motion_jpeg_is_lost_alone(tmp_path: Path) -> None:
    packets = motion(pan(6), tmp_path / "video.mkv", "mjpeg")
    data = (tmp_path / "video.mkv").read_bytes()
    assert data.count(packets[2]) == 1
    (tmp_path / "hit.mkv").write_bytes(data.replace(packets[2], bytes(len(packets[2]))))
    pieces = list(read_video(str(tmp_path / "hit.mkv")))
    assert [piece.name for piece in pieces] == [f"{i:06d}" for i in range(6)]
    assert [piece.received is None for piece in pieces] == [False, False, True, False, False, False]
    assert [p.received.data for p in pieces if p.received is not None] == packets[:2] + packets[3:]
    assert "Invalid data" in pieces[2].lost


def test_a_damaged_clip_within_a_video_takes_neither_level_nor_names_of_others_along(
    gearbox: GearBox, tmp_path: Path
) -> None:
    clips = [encode_clip(pan(1), f"h264:crf={crf}") for crf in (18, 24, 30, 36)]
    write_video(str(tmp_path / "video.mkv"), clips, RATE)
    data = (tmp_path / "video.mkv").read_bytes()
    pictures = [bytes(p) for p in av.open(str(tmp_path / "video.mkv")).demux(video=0) if p.size]
    assert data.count(pictures[1]) == 1
    (tmp_path / "hit.mkv").write_bytes(data.replace(pictures[1], b"\xff" * len(pictures[1])))
    pieces = list(read_video(str(tmp_path / "hit.mkv")))
    whole = [piece for piece in pieces if piece.received is not None]
    assert [piece.lost != "" for piece in pieces] == [False, True, False, False]
    assert [piece.name for piece in pieces] == ["000000", "000001", "000002", "000003"]
    assert crfs(gearbox, whole) == [18.0, 30.0, 36.0]
    assert same_pixels(shown(whole), [decode_clip(clips[i])[0] for i in (0, 2, 3)])


def test_a_codec_whose_level_cannot_be_sensed_is_skipped_with_the_reason_or_runs_on_the_base(
    gearbox: GearBox, tmp_path: Path
) -> None:
    motion(pan(5), tmp_path / "video.mp4", "mpeg4")
    session = Session(gearbox)
    records = [record for record, _ in session.run(open_source(str(tmp_path / "video.mp4")))]
    assert [record.frame for record in records] == [None]
    assert "expected an H.264 stream that carries quantisers, but got one of mpeg4" in records[0].skipped
    session = Session(gearbox, policy=Policy(off_map="base"))
    records = [record for record, _ in session.run(open_source(str(tmp_path / "video.mp4")))]
    assert [(r.frame, r.used, r.sensed, r.off_map) for r in records] == [
        (i, "pristine", None, "the level cannot be sensed") for i in range(5)
    ]
    assert (session.tally.frames, session.tally.skipped_segments) == (5, 0)


@pytest.mark.parametrize("suffix", ["mkv", "ts", "h264"])
def test_a_video_that_is_cut_off_gives_every_piece_before_the_cut(
    gearbox: GearBox, tmp_path: Path, suffix: str
) -> None:
    clips = [encode_clip(pan(6), f"h264:crf={crf}") for crf in (20, 30, 36)]
    write_video(str(tmp_path / f"whole.{suffix}"), clips, RATE)
    data = (tmp_path / f"whole.{suffix}").read_bytes()
    third = data.find(b"x264 - core", data.find(b"x264 - core", data.find(b"x264 - core") + 1) + 1)
    (tmp_path / f"cut.{suffix}").write_bytes(data[: third - 100])
    pieces = list(read_video(str(tmp_path / f"cut.{suffix}")))
    assert same_pixels(shown(pieces[:1]), decode_clip(clips[0]))
    assert crfs(gearbox, pieces) == [20.0, 30.0, 30.0][: 3 if suffix == "h264" else 2]
    expected = {"mkv": [0, 1, 2, 3, 4], "ts": [0, 1, 2, 3, 4, 5], "h264": [0, 1, 2, 4]}[suffix]
    assert order_of(shown(pieces[1:]), pan(6)) == expected
    lost = [(piece.name, piece.lost) for piece in pieces if piece.received is None]
    assert lost == ([("000009", "a frame is damaged or cut off")] if suffix == "h264" else [])


def test_a_file_that_is_no_video_is_a_clear_error(tmp_path: Path) -> None:
    write_video(str(tmp_path / "whole.mp4"), [encode_clip(pan(3), "h264:crf=30")], RATE)
    data = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])  # its index stands at its end
    (tmp_path / "text.mp4").write_text("no video")
    for name in ("cut.mp4", "text.mp4"):
        with pytest.raises(StreamError, match=rf"{name}: expected a video that FFmpeg reads: .*Invalid data"):
            open_source(str(tmp_path / name))
    with av.open(str(tmp_path / "sound.mkv"), "w") as written:
        sound = written.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        written.mux(sound.encode(frame))
    with pytest.raises(StreamError, match=r"sound.mkv: expected a video, but it has no video stream"):
        open_source(str(tmp_path / "sound.mkv"))


def test_a_folder_of_images_comes_in_the_order_of_its_numbers(gearbox: GearBox, tmp_path: Path) -> None:
    frames = pan(4)
    for index, number in enumerate((1, 2, 10, 100)):
        (tmp_path / f"shot{number}.jpg").write_bytes(encode(frames[index], f"jpeg:quality={10 + index}"))
    (tmp_path / "notes.txt").write_text("no frame")
    segments = list(open_source(str(tmp_path), frame_rate=10.0))
    assert [(s.name, round(s.start, 6)) for s in segments] == [
        ("shot1", 0.0), ("shot2", 0.1), ("shot10", 0.2), ("shot100", 0.3)
    ]  # fmt: skip
    sensed = [str(gearbox.sensor(s.received).level) for s in segments if s.received is not None]
    assert sensed == [f"jpeg:quality={10 + i}" for i in range(4)]


def test_images_called_initial_are_frames_as_all_others(tmp_path: Path) -> None:
    for name in ("initial1.png", "initial2.png", "later.png"):
        pan(1)[0].save(tmp_path / name)
    assert [s.name for s in open_source(str(tmp_path))] == ["initial1", "initial2", "later"]


def test_only_files_of_a_folder_are_frames(tmp_path: Path) -> None:
    pan(1)[0].save(tmp_path / "a.png")
    (tmp_path / "._a.png").write_bytes(b"what macOS notes beside a file")
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "c.png").mkdir()
    assert [s.name for s in open_source(str(tmp_path))] == ["a"]


@pytest.mark.parametrize("name", ["b.tif", "b.TIFF", "b.gif", "b.jxl", "b.avi", "b.mpg", "b.hevc"])
def test_files_that_would_be_left_out_of_a_folder_are_refused(tmp_path: Path, name: str) -> None:
    pan(1)[0].save(tmp_path / "a.png")
    (tmp_path / name).write_bytes(b"a frame")
    with pytest.raises(
        StreamError, match=rf"expected segments \(.*\), but got {name}, which would be left out; convert"
    ):
        open_source(str(tmp_path))


def test_every_ending_of_formats_that_are_read_is_a_frame(tmp_path: Path) -> None:
    for name, kind in (("1.jpe", "JPEG"), ("2.jfif", "JPEG"), ("3.pgm", "PPM")):
        pan(1)[0].convert("L").save(tmp_path / name, kind)
    motion(pan(3), tmp_path / "4.webm", "libvpx")
    segments = list(open_source(str(tmp_path)))
    assert [segment.name for segment in segments] == ["1", "2", "3", "4"]
    assert len(shown(segments)) == 6


def test_a_folder_of_clips_is_timed_by_their_lengths(tmp_path: Path) -> None:
    lengths = {"c2.ts": 3, "c10.ts": 5, "c11.ts": 2}
    for name, number in lengths.items():
        (tmp_path / name).write_bytes(as_transport_stream(encode_clip(pan(number), "h264:crf=30"), RATE, 4.0))
    segments = list(open_source(str(tmp_path)))
    assert [s.name for s in segments] == ["c2", "c10", "c11"]
    assert times(segments) == [i / 25 for i in range(10)]


def test_fragments_of_mp4_are_read_with_what_initialises_them(gearbox: GearBox, tmp_path: Path) -> None:
    clips = [encode_clip(pan(4), f"h264:crf={crf},preset=ultrafast") for crf in (22, 34)] * 6
    _fragments(tmp_path, clips)
    assert sorted(path.name for path in tmp_path.iterdir())[:3] == ["init.mp4", "part1.m4s", "part10.m4s"]
    segments = list(open_source(str(tmp_path)))
    assert [s.name for s in segments] == [f"part{i}" for i in range(1, 13)]
    assert same_pixels(shown(segments), [frame for clip in clips for frame in decode_clip(clip)])
    assert crfs(gearbox, segments) == [22.0, 34.0] * 6
    assert times(segments) == [round(i / 25, 6) for i in range(48)]


def _fragments(folder: Path, clips: Sequence[bytes]) -> None:
    """Fragmented MP4 as packagers write it: ``init.mp4`` with ftyp and moov, and a file for every moof and mdat."""
    target = io.BytesIO()
    with av.open(
        target, "w", format="mp4", options={"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    ) as written:
        stream = None
        for number, clip in enumerate(clips):
            with av.open(io.BytesIO(clip), format="h264") as source:
                stream = stream or written.add_stream_from_template(source.streams.video[0])
                for index, packet in enumerate(p for p in source.demux(video=0) if p.size):
                    packet.stream, packet.time_base, packet.duration = stream, Fraction(1, 25), 1
                    packet.pts = packet.dts = 4 * number + index
                    written.mux(packet)
    boxes, data = [], target.getvalue()
    while data:
        size = int.from_bytes(data[:4], "big")
        boxes.append((data[4:8], data[:size]))
        data = data[size:]
    (folder / "init.mp4").write_bytes(b"".join(box for name, box in boxes if name in (b"ftyp", b"moov")))
    moofs = [i for i, (name, _) in enumerate(boxes) if name == b"moof"]
    for number, at in enumerate(moofs, start=1):
        assert boxes[at + 1][0] == b"mdat"
        (folder / f"part{number}.m4s").write_bytes(boxes[at][1] + boxes[at + 1][1])


def test_a_segment_that_is_no_clip_is_told_and_the_next_is_read(gearbox: GearBox, tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(encode(pan(1)[0], "jpeg:quality=10"))
    (tmp_path / "2.jpg").write_bytes(b"no image")
    (tmp_path / "3.jpg").write_bytes(encode(pan(1)[0], "jpeg:quality=10"))
    session = Session(gearbox)
    records = [record for record, _ in session.run(open_source(str(tmp_path)))]
    assert [(r.segment, r.frame, round(r.time, 6)) for r in records] == [
        ("1", 0, 0.0),
        ("2", None, 0.04),
        ("3", 0, 0.08),
    ]
    assert "expected an encoded image, but 8 bytes" in records[1].skipped


def test_hidden_files_are_no_segments_and_heif_is_not_left_out(gearbox: GearBox, tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(encode(pan(1)[0], "jpeg:quality=10"))
    (tmp_path / "._1.jpg").write_bytes(b"what a Mac leaves")
    (tmp_path / "2.HEIC").write_bytes(b"\0\0\0\x14ftypheic\0\0\0\0mif1" + bytes(20))
    records = [record for record, _ in Session(gearbox).run(open_source(str(tmp_path)))]
    assert [record.segment for record in records] == ["1", "2"]
    assert "a picture in HEIF (HEIC, brand heic); convert it to JPEG or PNG" in records[1].skipped


def test_what_is_no_stream_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StreamError, match=r"none.mp4: expected a video file, a folder of segments or a manifest"):
        open_source(str(tmp_path / "none.mp4"))
    with pytest.raises(StreamError, match=r"expected segments \(.264, .avif, .*\), but there are none"):
        open_source(str(tmp_path))
    pan(1)[0].save(tmp_path / "photo.JPG", format="JPEG")
    with pytest.raises(StreamError, match=r"this is an image; `gearnn infer` takes images"):
        open_source(str(tmp_path / "photo.JPG"))
    with pytest.raises(StreamError, match=r"tcp://127.0.0.1:9: expected a video that FFmpeg reads: .*refused"):
        open_source("tcp://127.0.0.1:9")


@contextmanager
def camera(data: bytes) -> Iterator[str]:
    """A camera that sends a stream to whoever connects."""
    listener = socket.create_server(("127.0.0.1", 0))

    def send() -> None:
        client, _ = listener.accept()
        with client:
            for at in range(0, len(data), 1316):
                client.sendall(data[at : at + 1316])

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()
        thread.join(timeout=30)


def test_a_live_camera_is_read_over_the_network(gearbox: GearBox, tmp_path: Path) -> None:
    clips = [encode_clip(pan(8), f"h264:crf={crf}") for crf in (20, 36, 20)]
    write_video(str(tmp_path / "live.ts"), clips, RATE)
    with camera((tmp_path / "live.ts").read_bytes()) as address:
        session = Session(gearbox)
        records = [record for record, _ in session.run(open_source(address))]
    assert [r.used for r in records] == ["h264:crf=20"] * 8 + ["h264:crf=36"] * 8 + ["h264:crf=20"] * 8
    assert [round(r.time, 6) for r in records] == [i / 25 for i in range(24)]
    assert (session.tally.shifts, session.tally.skipped_segments) == (2, 0)


@pytest.mark.parametrize("name", ["2024-01-01T12:30:00.mp4", "cam1:front.mp4", "concat:a.mp4", "a%03d#?.mp4"])
def test_a_video_may_have_any_name(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(str(tmp_path / "a.mp4"), [encode_clip(pan(2), "h264:crf=30")], RATE)
    (tmp_path / "a.mp4").rename(tmp_path / name)
    for source in (name, str(tmp_path / name), (tmp_path / name).as_uri()):
        assert len(shown(list(open_source(source)))) == 2


def playlists(target: str) -> dict[str, str]:
    """Files that name another one, as FFmpeg reads them."""
    return {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile {target}\n",
        "sdp": "v=0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    }


@pytest.mark.parametrize("kind", ["hls", "concat", "sdp"])
def test_a_file_does_not_lead_to_others(tmp_path: Path, kind: str) -> None:
    write_video(str(tmp_path / "private.ts"), [encode_clip(pan(40, (160, 96)), "h264:crf=30")], RATE)
    for name in ("a.mp4", "a.m3u8", "a.ts", "a.sdp"):
        (tmp_path / name).write_text(playlists("private.ts")[kind])
        with pytest.raises(StreamError, match=rf"{name}: expected a video that FFmpeg reads"):
            open_source(str(tmp_path / name))


@pytest.mark.parametrize("kind", ["hls", "concat"])
def test_what_comes_from_the_network_does_not_lead_to_files(tmp_path: Path, kind: str) -> None:
    write_video(str(tmp_path / "private.ts"), [encode_clip(pan(40, (160, 96)), "h264:crf=30")], RATE)
    for number, target in enumerate((tmp_path / "private.ts", (tmp_path / "private.ts").as_uri())):
        (tmp_path / f"a{number}.m3u8").write_text(playlists(str(target))[kind])
        with serving(tmp_path) as (address, _), suppress(StreamError):  # at once, or the playlist gives nothing
            assert shown(list(open_source(f"{address}/a{number}.m3u8"))) == []


def test_a_playlist_on_the_network_may_name_its_neighbours(tmp_path: Path) -> None:
    write_video(str(tmp_path / "public.ts"), [encode_clip(pan(40, (160, 96)), "h264:crf=30")], RATE)
    (tmp_path / "a.m3u8").write_text(playlists("public.ts")["hls"])
    with serving(tmp_path) as (address, _):
        assert len(shown(list(open_source(f"{address}/a.m3u8")))) == 40
        assert len(shown(list(open_source(f"{address}/public.ts")))) == 40


@pytest.mark.parametrize(
    "source",
    ["http://ann:secret@127.0.0.1:9/x.mpd", "http://ann:secret@127.0.0.1:9/x.mp4", "rtsp://ann:secret@127.0.0.1:9/x"],
)
def test_passwords_stand_in_no_error(source: str) -> None:
    with pytest.raises(StreamError, match=r"//127.0.0.1:9/x") as caught:
        list(open_source(source))
    assert "secret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("source", ["pipe://0", "concat://a", "ftp://h/a.mp4", "FILE://host/a.mp4", "http://[::1"])
def test_other_addresses_are_clear_errors(source: str) -> None:
    with pytest.raises(StreamError, match=r"expected (an address|file:///PATH|a video that FFmpeg reads)"):
        open_source(source)
