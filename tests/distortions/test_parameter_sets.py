import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gearnn.distortions import Received, encode, video
from gearnn.distortions.parameter_sets import size_of_stream
from gearnn.errors import DataError
from tests.shared.clips import contained


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv422p", "yuv444p"])
@pytest.mark.parametrize("size", [(16, 16), (18, 34), (240, 180), (1920, 1080), (62, 46)])
def test_the_stated_size_is_that_of_the_decoded_frames(pixels: str, size: tuple[int, int]) -> None:
    for preset in ("ultrafast", "medium"):
        data = encode(Image.new("RGB", size, (90, 100, 110)), f"h264:crf=40,pixels={pixels},preset={preset}")
        assert size_of_stream(data) == size
        assert Received(data).size == Received(data).image.size == size


def test_odd_sizes_of_full_chroma_are_read() -> None:
    data = encode(Image.new("RGB", (63, 47)), "h264:crf=40,pixels=yuv444p")
    assert size_of_stream(data) == (63, 47)


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts"])
def test_containers_state_their_size(photo: Image.Image, container: str) -> None:
    assert video.size_of(contained(photo, container, "libx264", {})) == photo.size


def test_a_stream_without_a_parameter_set_is_a_typed_error(photo: Image.Image) -> None:
    data = encode(photo, "h264:crf=40")
    with pytest.raises(DataError, match=r"expected an H.264 stream with a sequence parameter set"):
        size_of_stream(b"\0\0\1\x68" + bytes(20))
    with pytest.raises(DataError, match="expected a whole sequence parameter set"):
        size_of_stream(data[:8])


@given(st.binary(max_size=60))
def test_any_parameter_set_is_a_size_or_a_typed_error(content: bytes) -> None:
    try:
        width, height = size_of_stream(b"\0\0\1\x67" + content)
    except DataError:
        return
    assert width > 0
    assert height > 0
