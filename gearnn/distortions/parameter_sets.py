"""The frame size of an H.264 elementary stream, from its sequence parameter set (ITU-T H.264, 7.3.2.1.1).

FFmpeg gives the size only once it has decoded a frame; the parameter set stands at the start of the
stream, and reading it takes microseconds. Of the rest of the bitstream only the types of messages are read here.
"""

from functools import lru_cache

from gearnn.errors import DataError

_SPS, _SEI, _START = 7, 6, b"\0\0\1"
_SLICES = {1, 5}
_DISPLAY_ORIENTATION = 47  # D.1.27
_WITH_CHROMA_FORMAT = {44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 144, 244}
_LONGEST = 400


def size_of_stream(data: bytes) -> tuple[int, int]:
    """(width, height) in pixels of an elementary stream's frames, cropping applied.

    Raises:
        DataError: the bytes hold no sequence parameter set, or a damaged one.
    """
    at = data.find(_START)
    while at >= 0:
        unit = data[at + 3 : at + 3 + _LONGEST]
        if unit and unit[0] & 0x1F == _SPS:
            end = unit.find(_START)
            return _size(unit[:end] if end >= 0 else unit)
        at = data.find(_START, at + 3)
    raise DataError(f"expected an H.264 stream with a sequence parameter set, but these {len(data)} bytes have none")


def is_turned(data: bytes) -> bool:
    """Whether an elementary stream says before its first picture that frames are shown turned or mirrored (SEI)."""
    at = data.find(_START)
    while at >= 0 and at + 3 < len(data) and data[at + 3] & 0x1F not in _SLICES:
        following = data.find(_START, at + 3)
        if data[at + 3] & 0x1F == _SEI:
            unit = data[at + 4 : following if following >= 0 else len(data)].replace(b"\0\0\3", b"\0\0")
            if _DISPLAY_ORIENTATION in _messages(unit):
                return True
        at = following
    return False


def _messages(unit: bytes) -> list[int]:
    """Types of the messages in a unit of supplemental enhancement information (7.3.2.3.1)."""
    types, at = [], 0
    while at < len(unit) - 1:  # the last byte is the unit's own end
        numbers = []
        for _ in ("type", "size"):
            start = at
            while at < len(unit) and unit[at] == 0xFF:
                at += 1
            numbers.append(0xFF * (at - start) + (unit[at] if at < len(unit) else 0))
            at += 1
        types.append(numbers[0])
        at += numbers[1]
    return types


@lru_cache(maxsize=256)  # the frames of a stream share their parameter set
def _size(unit: bytes) -> tuple[int, int]:
    try:
        width, height = _read(_Bits(unit[1:].replace(b"\0\0\3", b"\0\0")))
    except (IndexError, ValueError) as error:
        raise DataError(f"expected a whole sequence parameter set, but got {len(unit)} damaged bytes") from error
    if width < 1 or height < 1:
        raise DataError(f"expected a sequence parameter set with a frame size, but got {width}x{height}")
    return width, height


class _Bits:
    """Bits of a unit, read one after the other."""

    def __init__(self, data: bytes) -> None:
        self._bits = "".join(f"{byte:08b}" for byte in data)
        self._at = 0

    def fixed(self, number: int) -> int:
        """u(n): an unsigned number of so many bits."""
        self._at += number
        return int(self._bits[self._at - number : self._at], 2)

    def unsigned(self) -> int:
        """ue(v): Exp-Golomb."""
        zeros = self._bits.index("1", self._at) - self._at
        if zeros > 31:
            raise ValueError("a number of more than 32 bits")
        self._at += zeros
        return self.fixed(zeros + 1) - 1

    def signed(self) -> int:
        """se(v): 0, 1, -1, 2, -2, ..."""
        code = self.unsigned()
        return (code + 1) // 2 if code % 2 else -(code // 2)


def _read(bits: _Bits) -> tuple[int, int]:
    profile = bits.fixed(8)
    bits.fixed(16)  # constraints, level
    bits.unsigned()  # id
    chroma, separate = 1, 0
    if profile in _WITH_CHROMA_FORMAT:
        chroma = bits.unsigned()
        separate = bits.fixed(1) if chroma == 3 else 0
        bits.unsigned(), bits.unsigned(), bits.fixed(1)  # depths, lossless transform
        if bits.fixed(1):
            _skip_scaling_lists(bits, 12 if chroma == 3 else 8)
    bits.unsigned()  # of the frame numbers
    _skip_picture_order(bits)
    bits.unsigned(), bits.fixed(1)  # reference frames, gaps
    width, height = 16 * (bits.unsigned() + 1), 16 * (bits.unsigned() + 1)
    frames_only = bits.fixed(1)
    if not frames_only:
        height *= 2
        bits.fixed(1)
    bits.fixed(1)  # direct 8x8 inference
    if bits.fixed(1):
        left, right, top, bottom = (bits.unsigned() for _ in range(4))
        across = 2 if chroma in (1, 2) and not separate else 1
        down = (2 if chroma == 1 and not separate else 1) * (2 - frames_only)
        width, height = width - across * (left + right), height - down * (top + bottom)
    return width, height


def _skip_picture_order(bits: _Bits) -> None:
    kind = bits.unsigned()
    if kind == 0:
        bits.unsigned()
    elif kind == 1:
        bits.fixed(1), bits.signed(), bits.signed()
        for _ in range(min(bits.unsigned(), 255)):
            bits.signed()


def _skip_scaling_lists(bits: _Bits, number: int) -> None:
    for index in range(number):
        if bits.fixed(1):
            last, upcoming = 8, 8
            for _ in range(16 if index < 6 else 64):
                if upcoming:
                    upcoming = (last + bits.signed()) % 256
                last = upcoming or last
