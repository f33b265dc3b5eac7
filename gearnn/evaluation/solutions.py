"""What is compared: the solutions of an adaptation and of a benchmark, on which splits, and figures by name."""

import math
from typing import Final

BASE: Final = "base"
CLEAN: Final = "clean fine-tune"
FULL: Final = "full fine-tune"
ADAPTOR: Final = "adaptor"
SOLUTIONS: Final = (BASE, CLEAN, FULL, ADAPTOR)
"""What an adaptation scores at every level: the base as it is (the paper's original DNN), the pristine control,
the level's full fine-tune (its DNN switching), the adaptor (GearNN)."""

PAPER_RECIPE: Final = "adaptor, paper recipe"
PAPER_FULL: Final = "full fine-tune, paper recipe"
MIXED: Final = "mixed training"
MIXED_LONG: Final = "mixed training, all steps"
STABILITY: Final = "stability training"
REESTIMATED: Final = "BatchNorm re-estimated"
BATCHNORM: Final = "BatchNorm layers"
LAST_LAYERS: Final = "last layers"
EQ2: Final = "Eq. 2 layers"
BENCHMARKED: Final = (
    BASE,
    CLEAN,
    STABILITY,
    REESTIMATED,
    LAST_LAYERS,
    BATCHNORM,
    MIXED,
    MIXED_LONG,
    PAPER_RECIPE,
    EQ2,
    ADAPTOR,
    PAPER_FULL,
    FULL,
)
"""The solutions of a benchmark (section 4.2), in the order in which tables and figures show them."""

PER_LEVEL: Final = (REESTIMATED, LAST_LAYERS, BATCHNORM, PAPER_RECIPE, EQ2, ADAPTOR, PAPER_FULL, FULL)
"""Those that hold something for every level, and run the base itself at pristine ones."""

DIVERGED: Final = "diverged"
NOT_POSSIBLE: Final = "not possible"
FAILED: Final = "failed"
"""Why a figure is missing: a fine-tune diverged, the network or problem cannot have the solution, or all else."""

PROMOTE: Final = "promote"
TEST: Final = "test"
"""Split roles: versions are chosen by the first and reported by the second."""

GAIN_WORTH_TELLING: Final = 2.0
"""Points of the full fine-tune over the pristine control below which the share that is kept would be noise."""

_TITLES: Final = {
    "miou": "mIoU",
    "mask_ap": "mask AP",
    "mask_ap50": "mask AP50",
    "mask_ap75": "mask AP75",
    "box_ap": "box AP",
    "box_ap50": "box AP50",
    "box_ap75": "box AP75",
    "top5_accuracy": "top-5 accuracy",
}


def kept_share(clean: float, full: float, own: float) -> float | None:
    """What the adaptor keeps of the gain of the full fine-tune over the pristine control; 1 is all of it.

    Args:
        clean: figure of the pristine control, in percent.
        full: of the full fine-tune.
        own: of the adaptor.

    Returns:
        The share; None where the gain is below ``GAIN_WORTH_TELLING``, NaN where a figure is missing.

    >>> kept_share(40.0, 50.0, 48.0), kept_share(40.0, 41.0, 48.0)
    (0.8, None)
    """
    if math.isnan(clean + full + own):
        return math.nan
    return (own - clean) / (full - clean) if full - clean >= GAIN_WORTH_TELLING else None


def title(figure: str) -> str:
    """A figure's name as people write it; all figures are in percent.

    >>> title("mask_ap"), title("accuracy")
    ('mask AP', 'accuracy')
    """
    return _TITLES.get(figure, figure.replace("_", " "))
