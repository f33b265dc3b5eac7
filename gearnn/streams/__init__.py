"""Streams of changing quality: where segments come from, and how they run through a gearbox.

``sources`` opens files and folders, ``dash`` reads manifests, ``player`` fetches segments and chooses
their representation, ``session`` runs them, ``presentation`` writes a stream of known truth, ``throttle``
serves one at a changing bandwidth.
"""

from gearnn.streams.player import RateBased, play
from gearnn.streams.segment import Segment
from gearnn.streams.session import FrameRecord, Session
from gearnn.streams.sources import open_source
from gearnn.streams.truth import Truth

__all__ = ["FrameRecord", "RateBased", "Segment", "Session", "Truth", "open_source", "play"]
