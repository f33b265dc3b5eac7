"""GearNN: one base network in memory, and a tiny adaptor for every level of input distortion.

The files of this folder are the paper; read them by section (Xie and Kim, "Partial Weight Adaptation for
Robust DNN Inference", CVPR 2020):

- 3.2.1, Eq. 1: :mod:`gearnn.layers`, :mod:`gearnn.sensitivity`; statistics of BatchNorm in :mod:`gearnn.folding`
- 3.2.2, Eq. 2: :mod:`gearnn.knapsack`, with :mod:`gearnn.knapsack_proof`; other layers in :mod:`gearnn.portfolio`
- Algorithm 1: :mod:`gearnn.algorithm1`, with :mod:`gearnn.recipe`, :mod:`gearnn.objectives`, :mod:`gearnn.targets`,
  :mod:`gearnn.finetune` with its :mod:`gearnn.finetune_batches` and :mod:`gearnn.finetune_job`,
  :mod:`gearnn.evaluate`, and :mod:`gearnn.adaptor` with :mod:`gearnn.adaptor_facts`
- 3.3, online: :mod:`gearnn.gearbox`
- 4.3 distortion levels: :mod:`gearnn.levels`

Its rooms hold what the paper needs:

- ``distortions``: what levels do to frames, and how they are sensed (4.3)
- ``gears``: how adaptors are held, checked and chosen, and how frames run (3.3)
- ``models``, ``datasets``, ``metrics``, ``problems``: networks, data, scores, and tasks on frames (4.1)
- ``evaluation``: other solutions (4.2), frequencies (3.1), tables and figures (5, Table 1)
- ``streams``: frames as they arrive over a network
- ``machine``: device, precision, random numbers, slots, copies in memory
- ``plan``: what a user writes; ``store``: where results go; ``registry``: what is registered, in MLflow

The library knows no Prefect; names below are imported when they are first used, so that ``import gearnn``
is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gearnn.version import __version__

if TYPE_CHECKING:
    from gearnn.adaptor import Adaptor
    from gearnn.algorithm1 import Method, adapt_level
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

_HOMES = {
    "Adaptor": "adaptor",
    "DistortionLevel": "levels",
    "GearBox": "gearbox",
    "Method": "algorithm1",
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
    "Method",
    "Plan",
    "Recipe",
    "SegmentationScore",
    "__version__",
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
