"""How good predictions are: one file a problem, every figure over a whole split, in percent."""

from gearnn.metrics.classification import ClassificationScore
from gearnn.metrics.detection import Detections, InstanceScore
from gearnn.metrics.interval import Interval
from gearnn.metrics.segmentation import SegmentationScore

__all__ = ["ClassificationScore", "Detections", "InstanceScore", "Interval", "SegmentationScore"]
