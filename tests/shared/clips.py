"""H.264 streams as other senders make them."""

import io

import av
from PIL import Image


def strip(data: bytes) -> bytes:
    """The stream without its SEI units, cut out at their start codes."""
    units = data.split(b"\0\0\1")
    return b"\0\0\1".join(unit for unit in units if not unit or unit[0] & 31 != 6)


def contained(photo: Image.Image, container: str, codec: str, options: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        stream = file.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = *photo.size, "yuv420p"  # type: ignore[attr-defined]
        for packet in [*stream.encode(av.VideoFrame.from_image(photo)), *stream.encode(None)]:  # type: ignore[attr-defined]
            file.mux(packet)
    return buffer.getvalue()
