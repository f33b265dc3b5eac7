"""A frame as it arrives: encoded bytes, decoded when somebody asks for pixels.

Decoding is safe on any bytes: a damaged or foreign input is a :class:`gearnn.errors.DataError`, and a
frame of more than ``MAX_PIXELS`` is refused before memory is taken for it.
"""

from functools import cached_property

from PIL import Image

from gearnn.distortions import video
from gearnn.distortions.stills import MAX_PIXELS, open_image, to_rgb, unreadable, upright_size
from gearnn.distortions.video import Clip
from gearnn.errors import DataError


class Received:
    """What a sensor and a DNN get of one frame.

    Args:
        data: an image file (JPEG, PNG, WebP, BMP, PPM, AVIF), or a clip (H.264, MP4, Matroska,
            MPEG-TS) whose last frame is the one to look at.
    """

    def __init__(self, data: bytes) -> None:
        if not isinstance(data, bytes):
            raise TypeError(
                f"expected the bytes of a file, but got {type(data).__name__}; Path(...).read_bytes() reads one"
            )
        self.data = data

    @classmethod
    def of_image(cls, image: Image.Image) -> "Received":
        """A frame that is decoded already; only kinds that look at pixels can sense it.

        A picture that still carries an EXIF orientation is turned by it, as one from a file is. One that Pillow
        has opened only is decoded here.

        Raises:
            DataError: it has no pixels, is damaged or closed, or of a mode that is not read.
        """
        if 0 in image.size:
            raise DataError(f"expected a frame with pixels, but got a PIL image of {image.width}x{image.height}")
        received = cls(b"")
        try:
            image.load()
            received.__dict__["image"] = to_rgb(image)
        except DataError:
            raise
        except Exception as error:  # as below, and modes that Pillow cannot convert
            reason = " ".join(str(error).split())[:200].partition(" <_io.BytesIO")[0]
            raise DataError(
                f"expected a readable frame, but a PIL image of mode {image.mode} gave: {reason}"
            ) from error
        return received

    @classmethod
    def of_clip(cls, clip: Clip, data: bytes) -> "Received":
        """A piece of a longer video that is decoded already, with the bytes that it came from."""
        received = _DecodedClip(data)
        received.__dict__["clip"] = clip
        return received

    @property
    def is_jpeg(self) -> bool:
        """Whether the bytes start as a JPEG file does."""
        return self.data[:2] == b"\xff\xd8"

    @property
    def is_video(self) -> bool:
        """Whether the bytes start as a clip does."""
        return video.is_video(self.data)

    @cached_property
    def video(self) -> video.Decoded:
        """The decoded clip, with its quantisers.

        Raises:
            DataError: the bytes are no clip, or a damaged one.
        """
        if "clip" in self.__dict__:  # decoded already, as streams do
            clip = self.clip
            return video.Decoded(image=clip.frames[-1], codec=clip.codec, quantisers=clip.quantisers)
        return video.decode_video(self.data, MAX_PIXELS)

    @cached_property
    def clip(self) -> Clip:
        """Every frame of the clip; of a still image, that one.

        Raises:
            DataError: the bytes cannot be decoded, or any frame is damaged or too large.
        """
        if self.is_video:
            return video.decode_all(self.data, MAX_PIXELS)
        return Clip(frames=(self.image,), times=(0.0,), codec="", quantisers=())

    @cached_property
    def image(self) -> Image.Image:
        """The frame, RGB, upright.

        Raises:
            DataError: the bytes cannot be decoded, or the frame has more than ``MAX_PIXELS``.
        """
        return self.video.image if self.is_video else _decode_image(self.data)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the upright frame, read from the header or the stream's parameters."""
        if "image" in self.__dict__:
            return self.image.size
        return video.size_of(self.data) if self.is_video else upright_size(open_image(self.data))


class _DecodedClip(Received):
    @property
    def is_video(self) -> bool:
        """True, whatever the bytes start with: containers store streams in pieces that do not stand alone."""
        return True

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the last frame."""
        return self.clip.frames[-1].size


def decode(data: bytes) -> Image.Image:
    """An encoded frame as RGB, or the last frame of a clip.

    Args:
        data: see :class:`Received`.

    Raises:
        DataError: the bytes cannot be decoded, or the frame has more than ``MAX_PIXELS``.
    """
    return Received(data).image


def _decode_image(data: bytes) -> Image.Image:
    image = open_image(data)
    try:
        image.load()
        return to_rgb(image)
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise a dozen kinds of errors on damaged files
        raise unreadable(data, error) from error
