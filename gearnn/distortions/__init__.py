"""Distortions: one file a kind, each saying how to distort a frame and how to sense the level of an input.

Kinds (``jpeg``, ``h264``, ``resolution``, ``brightness``, and those of installed packages, in ``registry``) know
values. :mod:`gearnn.levels` stands above them; above it stand ``applying``, ``distances``, ``calibration`` and
``sensor``. Names are imported when they are first used, because kinds lie below levels and the rest above.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gearnn.distortions.applying import (
        codec_version,
        distort,
        distort_clip,
        encode,
        encode_clip,
        sees_clips,
        suffix_of,
    )
    from gearnn.distortions.calibration import Calibration, calibrate, needs_calibration
    from gearnn.distortions.distances import apart, distance, nearest, strength, within
    from gearnn.distortions.kinds import Kind, Parameter, Reading, Reference
    from gearnn.distortions.received import Received, decode
    from gearnn.distortions.registry import kind_of
    from gearnn.distortions.sensor import Sensed, Sensor, ask, look_closer, sense
    from gearnn.distortions.stills import MAX_PIXELS

_HOMES = {
    "Calibration": "calibration",
    "Kind": "kinds",
    "MAX_PIXELS": "stills",
    "Parameter": "kinds",
    "Reading": "kinds",
    "Received": "received",
    "Reference": "kinds",
    "Sensed": "sensor",
    "Sensor": "sensor",
    "apart": "distances",
    "ask": "sensor",
    "calibrate": "calibration",
    "codec_version": "applying",
    "decode": "received",
    "distance": "distances",
    "distort": "applying",
    "distort_clip": "applying",
    "encode": "applying",
    "encode_clip": "applying",
    "kind_of": "registry",
    "look_closer": "sensor",
    "nearest": "distances",
    "needs_calibration": "calibration",
    "sees_clips": "applying",
    "sense": "sensor",
    "strength": "distances",
    "suffix_of": "applying",
    "within": "distances",
}

__all__ = [
    "MAX_PIXELS",
    "Calibration",
    "Kind",
    "Parameter",
    "Reading",
    "Received",
    "Reference",
    "Sensed",
    "Sensor",
    "apart",
    "ask",
    "calibrate",
    "codec_version",
    "decode",
    "distance",
    "distort",
    "distort_clip",
    "encode",
    "encode_clip",
    "kind_of",
    "look_closer",
    "nearest",
    "needs_calibration",
    "sees_clips",
    "sense",
    "strength",
    "suffix_of",
    "within",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gearnn.distortions' has no attribute {name!r}")
    return getattr(import_module(f"gearnn.distortions.{_HOMES[name]}"), name)
