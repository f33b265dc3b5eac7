"""What is compared: the solutions of an adaptation and of a benchmark, on which splits, and figures by name."""

from typing import Final

BASE: Final = "base"
CLEAN: Final = "clean fine-tune"
FULL: Final = "full fine-tune"
ADAPTOR: Final = "adaptor"
SOLUTIONS: Final = (BASE, CLEAN, FULL, ADAPTOR)
"""What is scored at every level: the base as it is, the pristine control, DNN switching, GearNN."""

ORIGINAL: Final = "original"
SWITCHING: Final = "DNN switching"
GEARNN: Final = "GearNN"
PAPER_RECIPE: Final = "GearNN, paper recipe"
MIXED: Final = "mixed training"
MIXED_LONG: Final = "mixed training, all steps"
STABILITY: Final = "stability training"
REESTIMATED: Final = "BatchNorm re-estimated"
BATCHNORM: Final = "BatchNorm layers"
LAST_LAYERS: Final = "last layers"
BENCHMARKED: Final = (
    ORIGINAL,
    CLEAN,
    STABILITY,
    REESTIMATED,
    LAST_LAYERS,
    BATCHNORM,
    MIXED,
    MIXED_LONG,
    PAPER_RECIPE,
    GEARNN,
    SWITCHING,
)
"""The solutions of a benchmark, named as in section 4.2, in the order in which tables and figures show them."""

PER_LEVEL: Final = (REESTIMATED, LAST_LAYERS, BATCHNORM, PAPER_RECIPE, GEARNN, SWITCHING)
"""Those that hold something for every level, and run the base itself at pristine ones."""

PROMOTE: Final = "promote"
TEST: Final = "test"
"""Split roles: versions are chosen by the first and reported by the second."""

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


def title(figure: str) -> str:
    """A figure's name as people write it; all figures are in percent.

    >>> title("mask_ap"), title("accuracy")
    ('mask AP', 'accuracy')
    """
    return _TITLES.get(figure, figure.replace("_", " "))
