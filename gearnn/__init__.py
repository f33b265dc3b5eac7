"""GearNN: one base network in memory, and a tiny adaptor for every level of input distortion.

Reading order, by section of the paper (Xie and Kim, "Partial Weight Adaptation for Robust DNN
Inference", CVPR 2020):

- 3.1: :mod:`gearnn.frequency`
- 3.2.1, Eq. 1: :mod:`gearnn.layers`, :mod:`gearnn.sensitivity`
- 3.2.2, Eq. 2: :mod:`gearnn.knapsack`
- Algorithm 1: :mod:`gearnn.algorithm1`, with :mod:`gearnn.finetune` and :mod:`gearnn.adaptor`
- 3.3, online: :mod:`gearnn.gearbox`, with :mod:`gearnn.distortions` to sense levels
- 4.1 networks, data and scores: :mod:`gearnn.models`, :mod:`gearnn.datasets`, :mod:`gearnn.metrics`
- 4.2 benchmark solutions: :mod:`gearnn.baselines`, :mod:`gearnn.objectives`, :mod:`gearnn.datasets.mixture`
- 4.3 distortions: :mod:`gearnn.levels`, :mod:`gearnn.distortions`
- 5 experiments, Table 1: :mod:`gearnn.results`, :mod:`gearnn.memory`, :mod:`gearnn.figures`

What a user writes is :mod:`gearnn.plan`; where results go are :mod:`gearnn.storage`,
:mod:`gearnn.tracking` and :mod:`gearnn.registry`. The library knows no Prefect; names below are
imported when they are first used, so that ``import gearnn`` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gearnn.adaptor import Adaptor
    from gearnn.algorithm1 import adapt_level
    from gearnn.distortions import distort, sense
    from gearnn.gearbox import GearBox
    from gearnn.knapsack import select_layers
    from gearnn.layers import fingerprint, layers_of, model_size
    from gearnn.levels import DistortionLevel
    from gearnn.metrics import SegmentationScore
    from gearnn.models import load_model
    from gearnn.plan import Plan
    from gearnn.recipe import Recipe
    from gearnn.sensitivity import weight_change

__version__ = "0.1.0"

_HOMES = {
    "Adaptor": "adaptor",
    "DistortionLevel": "levels",
    "GearBox": "gearbox",
    "Plan": "plan",
    "Recipe": "recipe",
    "SegmentationScore": "metrics",
    "adapt_level": "algorithm1",
    "distort": "distortions",
    "fingerprint": "layers",
    "layers_of": "layers",
    "load_model": "models",
    "model_size": "layers",
    "select_layers": "knapsack",
    "sense": "distortions",
    "weight_change": "sensitivity",
}

__all__ = [
    "Adaptor",
    "DistortionLevel",
    "GearBox",
    "Plan",
    "Recipe",
    "SegmentationScore",
    "adapt_level",
    "distort",
    "fingerprint",
    "layers_of",
    "load_model",
    "model_size",
    "select_layers",
    "sense",
    "weight_change",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gearnn' has no attribute {name!r}")
    return getattr(import_module(f"gearnn.{_HOMES[name]}"), name)
