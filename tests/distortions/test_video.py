"""Videos as they are meant to be seen: display matrices, cover pictures, what is logged."""

import io
import itertools
import logging
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext

from gearnn.distortions import Received, decode, sense
from gearnn.distortions.parameter_sets import is_turned
from gearnn.distortions.video import decode_clip
from gearnn.errors import DataError
from gearnn.streams import open_source

WIDTH, HEIGHT, ONE = 160, 96, 1 << 16
QUARTERS = [
    m for m in itertools.product((-1, 0, 1), repeat=4) if abs(m[0] * m[3] - m[1] * m[2]) == 1 and sum(map(abs, m)) == 2
]


def pixels() -> np.ndarray:
    array = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    array[: HEIGHT // 2, : WIDTH // 2] = (200, 40, 30)
    array[HEIGHT // 2 :, WIDTH // 2 :] = (30, 60, 210)
    return array


def clip(
    kind: str = "mp4",
    matrix: tuple[float, ...] | None = None,
    *,
    codec: str = "libx264",
    aspect: Fraction | None = None,
    num_frames: int = 3,
    options: dict[str, str] | None = None,
) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as file:
        stream = file.add_stream(codec, rate=10, options=options or {})
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if matrix is not None:
            a, b, c, d = (round(ONE * value) for value in matrix)
            stream.set_display_matrix((a, b, 0, c, d, 0, 0, 0, 1 << 30))
        for _ in range(num_frames):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels(), format="rgb24")))
        file.mux(stream.encode())
    return buffer.getvalue()


def shown(matrix: tuple[float, ...]) -> np.ndarray:
    """Every pixel (p, q) at (a p + c q, b p + d q), moved into view: the definition, pixel by pixel."""
    a, b, c, d = map(int, matrix)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    x, y = a * columns + c * rows, b * columns + d * rows
    x, y = x - x.min(), y - y.min()
    seen = np.zeros((y.max() + 1, x.max() + 1, 3), np.uint8)
    seen[y, x] = pixels()
    return seen


def close(image: object, reference: np.ndarray) -> bool:
    got = np.asarray(image, int)
    return got.shape == reference.shape and float(np.abs(got - reference).mean()) < 6


def turned_by_sei(kind: str, options: str) -> bytes:
    with av.open(io.BytesIO(clip("h264", num_frames=4)), format="h264") as file:
        stream = file.streams.video[0]
        turning = BitStreamFilterContext(f"h264_metadata=display_orientation=insert:{options}", stream)
        packets = [turned for packet in file.demux(stream) if packet.size for turned in turning.filter(packet)]
        if kind == "h264":
            return b"".join(map(bytes, packets))
        target = io.BytesIO()
        with av.open(target, "w", format=kind) as written:
            copy = written.add_stream_from_template(stream)
            for number, packet in enumerate(packets):
                packet.stream, packet.time_base, packet.pts, packet.dts = copy, Fraction(1, 10), number, number
                written.mux(packet)
        return target.getvalue()


@pytest.mark.parametrize("kind", ["mp4", "matroska", "mov"])
@pytest.mark.parametrize("matrix", QUARTERS)
def test_a_video_is_seen_as_its_display_matrix_says(kind: str, matrix: tuple[int, ...]) -> None:
    if kind == "matroska" and matrix[0] * matrix[3] - matrix[1] * matrix[2] < 0 and matrix != (-1, 0, 0, 1):
        pytest.skip("Matroska holds a rotation and one reflection")
    data, reference = clip(kind, matrix), shown(matrix)
    assert len(QUARTERS) == 8
    assert Received(data).size == reference.shape[1::-1]
    assert close(decode(data), reference)
    assert all(close(frame, reference) for frame in Received(data).clip.frames)
    assert all(close(frame, reference) for frame in decode_clip(data))
    assert sense(data).level == sense(clip(kind)).level


def test_pieces_of_a_whole_video_are_upright(tmp_path: Path) -> None:
    path, reference = tmp_path / "phone.mov", shown((0, 1, -1, 0))
    path.write_bytes(clip("mov", (0, 1, -1, 0), num_frames=40, options={"g": "16"}))
    segments = list(open_source(str(path)))
    frames = [frame for segment in segments if segment.received for frame in segment.received.clip.frames]
    assert len(frames) == 40
    assert all(close(frame, reference) for frame in frames)
    assert {segment.received.size for segment in segments if segment.received} == {(HEIGHT, WIDTH)}


def test_motion_jpeg_is_turned_by_its_container_and_sensed_by_its_tables(tmp_path: Path) -> None:
    path, reference = tmp_path / "phone.mov", shown((0, -1, 1, 0))
    path.write_bytes(clip("mov", (0, -1, 1, 0), codec="mjpeg"))
    received = [segment.received for segment in open_source(str(path))]
    assert all(one is not None and one.is_jpeg and close(one.image, reference) for one in received)
    assert {one.size for one in received if one is not None} == {(HEIGHT, WIDTH)}


@pytest.mark.parametrize("kind", ["h264", "mpegts"])
def test_an_orientation_in_the_stream_holds_for_all_frames_up_to_the_next_key_frame(kind: str) -> None:
    data = turned_by_sei(kind, "rotate=90")
    frames = Received(data).clip.frames
    assert [frame.size for frame in frames] == [(HEIGHT, WIDTH)] * 4
    assert Received(data).size == decode(data).size == (HEIGHT, WIDTH)
    assert len({frame.tobytes() for frame in decode_clip(data)} & {frame.tobytes() for frame in frames}) > 0


def test_streams_that_say_nothing_are_not_decoded_for_their_size() -> None:
    assert is_turned(turned_by_sei("h264", "flip=horizontal"))
    assert not is_turned(clip("h264"))
    assert not is_turned(b"\0\0\1\x06\xff")
    assert not is_turned(b"\0\0\1\x06")


@pytest.mark.parametrize(("matrix", "degrees"), [((0.7071, -0.7071, 0.7071, 0.7071), 45), ((1, 0.1, 0, 1), -6)])
def test_a_video_that_is_turned_by_other_angles_is_refused(matrix: tuple[float, ...], degrees: int) -> None:
    for look in (decode, lambda data: Received(data).size, lambda data: Received(data).clip):
        with pytest.raises(DataError, match=rf"upright or turned by quarters, but its display matrix .* by {degrees} "):
            look(clip("mp4", matrix))


def test_an_empty_matrix_turns_nothing() -> None:
    data = bytearray(clip("mp4"))
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 36] = bytes(36)
    assert close(decode(bytes(data)), pixels())
    data[at : at + 4] = ONE.to_bytes(4, "big")  # all of the picture on one line
    with pytest.raises(DataError, match=r"its display matrix \[1 0; 0 0\] turns it by"):
        decode(bytes(data))


def test_segments_of_a_fragmented_video_are_turned_as_their_start_says() -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"movflags": "frag_keyframe+empty_moov+default_base_moof"}) as file:
        stream = file.add_stream("libx264", rate=10, options={"g": "2"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.set_display_rotation(90)
        for _ in range(4):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels(), format="rgb24")))
        file.mux(stream.encode())
    start, _, rest = buffer.getvalue().partition(b"moof")
    second = rest.index(b"moof") - 4
    segment = start[:-4] + rest[second:]
    assert [close(frame, shown((0, -1, 1, 0))) for frame in Received(segment).clip.frames] == [True, True]


def test_a_matrix_that_also_scales_turns_all_the_same() -> None:
    assert close(decode(clip("mp4", (0, 2, -2, 0))), shown((0, 1, -1, 0)))


def test_a_cover_picture_is_no_frame() -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        cover = file.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        stream = file.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        file.mux(cover.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), 9, np.uint8), format="rgb24")))
        file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels(), format="rgb24")))
        file.mux([*cover.encode(), *stream.encode()])
    assert close(decode(buffer.getvalue()), pixels())
    assert Received(buffer.getvalue()).size == (WIDTH, HEIGHT)


def test_what_frames_are_not_corrected_for_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "gearnn"):
        for _ in range(2):
            decode(clip("matroska", aspect=Fraction(12, 11)))
            decode(clip("h264", options={"x264-params": "tff=1"}))
            decode(clip("h264", options={"x264-params": "transfer=arib-std-b67"}))
    assert len(caplog.messages) == 3
    for message, words in zip(caplog.messages, ("12/11 as wide as high", "interlaced", "range (HLG)"), strict=True):
        assert words in message


def test_an_encrypted_video_is_called_so() -> None:
    buffer, key = io.BytesIO(), "0123456789abcdef" * 2
    how = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": key, "encryption_kid": key}
    with av.open(buffer, "w", format="mp4", options=how) as file:
        stream = file.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels(), format="rgb24")))
        file.mux(stream.encode())
    with pytest.raises(DataError, match=r"these \d+ bytes are encrypted \(protected\)"):
        decode(buffer.getvalue())


def test_a_picture_of_tiles_is_no_stream(tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "picture.mp4"
    Image.new("RGB", (64, 64), "red").save(path, "AVIF")
    with pytest.raises(DataError, match=r"expected a video, but got a picture in HEIF or AVIF \(avif\)"):
        list(open_source(str(path)))
