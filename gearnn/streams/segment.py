"""What a stream is made of."""

from dataclasses import dataclass

from gearnn.distortions import Received


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Frames that arrive together, at one level; or why they did not arrive.

    Attributes:
        name: of the segment within its stream; frame k of it is ``<name>-<k>`` to :class:`Truth`.
        start: of its first frame, in seconds of the presentation.
        received: its bytes; None where it is lost.
        lost: why it is lost; nothing where it is not.
        representation: id of the DASH representation that it belongs to.
        bandwidth: that this representation declares, in kbit/s; 0 where there is none.
        throughput: at which it was fetched, in kbit/s; 0 where that was not measured.
    """

    name: str
    start: float
    received: Received | None
    lost: str = ""
    representation: str = ""
    bandwidth: float = 0.0
    throughput: float = 0.0
