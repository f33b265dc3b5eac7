import io
from fractions import Fraction
from pathlib import Path
from unittest.mock import patch

import av
import numpy as np
import pytest
from PIL import Image

from gearnn.distortions import (
    Received,
    decode,
    distance,
    distort,
    distort_clip,
    encode,
    encode_clip,
    h264,
    sense,
    video,
    x264,
)
from gearnn.errors import CodecError, DataError, LevelError, SenseError
from gearnn.levels import DistortionLevel
from tests.shared.clips import contained, strip


def crf_of(data: bytes) -> float:
    return float(dict(sense(data).level.parts[0].parameters)["crf"])


def pan(photo: Image.Image, number: int = 12) -> list[Image.Image]:
    return [photo.crop((i, i // 2, i + 160, i // 2 + 112)) for i in range(number)]


def psnr(a: Image.Image, b: Image.Image) -> float:
    return float(10 * np.log10(255**2 / np.square(np.asarray(a, float) - np.asarray(b, float)).mean()))


def test_a_level_has_stated_defaults_that_are_not_written() -> None:
    level = DistortionLevel.parse("h264:crf=23")
    assert dict(level.parts[0].parameters) == {"crf": 23.0, "gop": 250, "preset": "medium", "pixels": "yuv420p"}
    assert str(level) == "h264:crf=23"
    assert DistortionLevel.parse("h264:crf=23,preset=medium,gop=250") == level
    other = DistortionLevel.parse("h264:crf=23,gop=12,preset=veryfast,pixels=yuv444p")
    assert str(other) == "h264:crf=23,gop=12,preset=veryfast,pixels=yuv444p"
    assert other.slug == "h264-crf-23-gop-12-preset-veryfast-pixels-yuv444p"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("h264:crf=52", "expected crf to be a number from 0.0 to 51.0, but got 52"),
        ("h264:crf=23,preset=warp", "expected preset to be one of ultrafast, superfast"),
        ("h264:crf=23,pixels=rgb24", "expected pixels to be one of yuv420p, yuv422p, yuv444p, but got rgb24"),
        ("h264:crf=23,gop=0", "expected gop to be an integer from 1 to 600, but got 0"),
        ("h264:preset=medium", "expected a value for crf, such as 'h264:crf=0.0'"),
    ],
)
def test_values_out_of_range_are_named(text: str, message: str) -> None:
    with pytest.raises(LevelError, match=message):
        DistortionLevel.parse(text)


def test_only_the_unencoded_frame_is_pristine() -> None:
    level = DistortionLevel.parse("h264:crf=0")
    assert not level.is_pristine
    assert distance(level, DistortionLevel()) == 0.0
    assert distance(DistortionLevel(), DistortionLevel.parse("h264:crf=18")) == 18.0


def test_distort_is_decode_of_encode_and_worse_with_crf(photo: Image.Image) -> None:
    found = [distort(photo, f"h264:crf={crf}") for crf in (5, 20, 35, 50)]
    assert all(image.size == photo.size and image.mode == "RGB" for image in found)
    assert np.array_equal(found[1], decode(encode(photo, "h264:crf=20")))
    errors = [psnr(image, photo) for image in found]
    assert errors == sorted(errors, reverse=True)
    assert encode(photo, "h264:crf=20") == encode(photo, "h264:crf=20")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("flags: sse4_2 avx2 avx512f avx512bw", {"x264-params": "asm=AVX2"}),  # its AVX-512 does not repeat itself
        ("flags: sse4_2 avx2", {}),
        (None, {}),
    ],
)
def test_x264_is_kept_off_avx_512_where_there_is_some(tmp_path: Path, flags: str | None, expected: object) -> None:
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(flags)
    with patch.object(x264, "_PROCESSOR", tmp_path / "cpuinfo"):
        assert x264.instructions.__wrapped__() == expected


def test_equal_frames_give_equal_bytes_whatever_memory_holds(photo: Image.Image) -> None:
    frames, found = pan(photo), set()
    for _ in range(20):
        clip = encode_clip(frames, "h264:crf=30")
        found.add(clip)
        distort_clip(frames, "h264:crf=23,gop=4")
        decode(clip)
    assert len(found) == 1


def test_frames_equal_those_of_a_bare_ffmpeg_encode(photo: Image.Image) -> None:
    codec = av.CodecContext.create("libx264", "w")
    codec.width, codec.height, codec.pix_fmt, codec.time_base = *photo.size, "yuv420p", Fraction(1, 25)
    codec.options, codec.thread_count = {"crf": "30", "preset": "medium", **x264.instructions()}, 1
    picture = av.VideoFrame.from_image(photo).reformat(format="yuv420p", interpolation="BICUBIC")
    stream = b"".join(bytes(packet) for packet in [*codec.encode(picture), *codec.encode(None)])
    with av.open(io.BytesIO(stream), format="h264") as file:
        frame = next(file.decode(video=0)).to_image()
    assert np.array_equal(frame, distort(photo, "h264:crf=30"))


def test_a_sequence_is_encoded_as_a_sequence(photo: Image.Image) -> None:
    frames = pan(photo)
    clip = encode_clip(frames, "h264:crf=30")
    arrived = distort_clip(frames, "h264:crf=30")
    assert len(arrived) == len(frames)
    assert np.array_equal(arrived[-1], decode(clip))
    assert len(clip) < 0.7 * sum(len(encode(frame, "h264:crf=30")) for frame in frames)
    inter = [picture.inter for picture in Received(clip).video.quantisers]
    assert inter.count(False) == 1
    assert [p.inter for p in Received(encode_clip(frames, "h264:crf=30,gop=1")).video.quantisers] == [False] * 12


def test_kinds_that_see_single_frames_take_the_last_of_a_clip(photo: Image.Image) -> None:
    frames = pan(photo)
    assert encode_clip(frames, "jpeg:quality=20") == encode(frames[-1], "jpeg:quality=20")
    combined = decode(encode_clip(frames, "h264:crf=30+jpeg:quality=20"))
    assert np.array_equal(combined, distort(distort_clip(frames, "h264:crf=30")[-1], "jpeg:quality=20"))


@pytest.mark.parametrize("preset", ["ultrafast", "veryfast", "medium"])
@pytest.mark.parametrize("crf", [0, 15, 18, 23, 30, 51])
def test_the_crf_is_read_from_x264s_sei(photo: Image.Image, preset: str, crf: int) -> None:
    sensed = sense(encode(photo, f"h264:crf={crf},preset={preset}"))
    assert (dict(sensed.level.parts[0].parameters)["crf"], sensed.misfit) == (crf, 0.0)
    assert crf_of(encode(photo, "h264:crf=22.5")) == 22.5


@pytest.mark.parametrize("preset", ["ultrafast", "veryfast", "medium"])
def test_without_the_sei_the_slices_tell(photo: Image.Image, preset: str) -> None:
    for crf in (15, 19, 23, 27, 30):
        stripped = strip(encode(photo, f"h264:crf={crf},preset={preset}"))
        assert b"x264" not in stripped
        assert crf_of(stripped) == crf
        with patch.object(h264, "_SNAP", -1.0):  # as if the encoder did not write its CRF as the initial quantiser
            assert abs(crf_of(stripped) - crf) <= 2.0


def test_sequences_without_the_sei_are_sensed(photo: Image.Image) -> None:
    for crf in (18, 24, 30):
        assert abs(crf_of(strip(encode_clip(pan(photo), f"h264:crf={crf}"))) - crf) <= 2.0


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts"])
def test_containers_are_sensed_and_decoded(photo: Image.Image, container: str) -> None:
    data = contained(photo, container, "libx264", {"crf": "27"})
    assert crf_of(data) == 27
    assert decode(data).size == photo.size


def test_another_codec_in_a_container_is_a_typed_error(photo: Image.Image) -> None:
    data = contained(photo, "mp4", "mpeg4", {})
    assert decode(data).size == photo.size
    with pytest.raises(SenseError, match=r"expected an H.264 stream that carries quantisers, but got one of mpeg4"):
        sense(data)


def test_the_exported_quantisers_are_those_of_pyavs_own_map(photo: Image.Image) -> None:
    data = encode(photo, "h264:crf=23")
    codec = av.CodecContext.create("h264", "r")
    codec.options = {"export_side_data": "venc_params"}
    packets = [*codec.parse(data), *codec.parse(b""), None]
    frame = next(frame for packet in packets for frame in codec.decode(packet))  # type: ignore[attr-defined]
    parameters = next(d for d in frame.side_data if d.type.name == "VIDEO_ENC_PARAMS")
    found = Received(data).video.quantisers[0]
    assert found.mean == pytest.approx(float(parameters.qp_map().mean()))
    assert (found.initial, found.flat, found.inter) == (23, False, False)


@pytest.mark.parametrize(
    ("size", "level", "message"),
    [
        (
            (63, 48),
            "h264:crf=23",
            "expected frames with an even width and height, as yuv420p stores colours, but got 63x48",
        ),
        ((64, 47), "h264:crf=23", "but got 64x47; set data.camera.size, or pixels=yuv444p"),
        ((63, 48), "h264:crf=23,pixels=yuv422p", "expected frames with an even width, as yuv422p"),
        ((63, 47), "resolution:scale=1.0", "but got 63x47"),
    ],
)
def test_odd_sizes_are_told_where_the_chroma_format_cannot_store_them(
    size: tuple[int, int], level: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        encode(Image.new("RGB", size), level)


def test_odd_sizes_pass_where_the_format_can_store_them() -> None:
    odd = Image.new("RGB", (63, 47), (10, 200, 30))
    assert distort(odd, "h264:crf=23,pixels=yuv444p").size == (63, 47)
    assert distort(odd, "resolution:scale=0.5").size == (32, 24)


def test_a_clip_of_different_sizes_is_refused() -> None:
    with pytest.raises(DataError, match="expected a clip with frames of one size"):
        encode_clip([Image.new("RGB", (64, 48)), Image.new("RGB", (32, 48))], "h264:crf=23")


def test_a_pyav_without_x264_is_told(photo: Image.Image) -> None:
    with (
        patch.object(x264, "_ENCODER", "libx264_of_another_build"),
        pytest.raises(CodecError, match=r"expected a PyAV with libx264_of_another_build, but PyAV .* here has none"),
    ):
        encode(photo, "h264:crf=23")


def test_a_machine_without_pyav_is_told(photo: Image.Image) -> None:
    video.av_library.cache_clear()
    with patch.dict("sys.modules", {"av": None}), pytest.raises(CodecError, match=r"expected PyAV.*`pip install av`"):
        encode(photo, "h264:crf=23")
    video.av_library.cache_clear()


def test_truncated_and_damaged_streams_are_typed_errors(photo: Image.Image) -> None:
    data = encode(photo, "h264:crf=23")
    for length in (0, 3, 4, 20, 100, 800, len(data) // 2, len(data) - 10):
        with pytest.raises(DataError):
            decode(data[:length])
        with pytest.raises(SenseError):
            sense(strip(data[:length]))
    broken = bytearray(data)
    broken[-len(data) // 2 :: 7] = b"\xff" * len(broken[-len(data) // 2 :: 7])
    with pytest.raises(DataError, match=r"damaged or cut off|can be decoded"):
        decode(bytes(broken))


def test_frames_beyond_the_pixel_limit_are_refused(photo: Image.Image) -> None:
    with pytest.raises(DataError, match="expected a video"):
        video.decode_video(encode(photo, "h264:crf=23"), max_pixels=100)


def test_clips_that_would_take_minutes_to_decode_are_refused(photo: Image.Image) -> None:
    """A frame that repeats the one before costs a dozen bytes, so small clips may hold very many."""
    clip = encode_clip([photo] * 30, "h264:crf=40")
    assert len(clip) < 10_000
    with patch.object(video, "_MOST_CLIP_PIXELS", 20 * photo.width * photo.height):
        for call in (decode, lambda data: sense(strip(data))):
            with pytest.raises((DataError, SenseError), match=r"expected a clip of at most 491,520 pixels in all"):
                call(clip)
