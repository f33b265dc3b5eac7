"""Names of metrics, tags, aliases and solutions in MLflow, decided here once for every use.

Metrics of a level's run are ``<split role>/<solution>/<figure>``, such as ``test/adaptor/miou``;
MLflow groups them by the part before the slash. Tags start with ``gearnn.``.
"""

from typing import Final

BASE: Final = "base"
CLEAN: Final = "clean fine-tune"
FULL: Final = "full fine-tune"
ADAPTOR: Final = "adaptor"
SOLUTIONS: Final = (BASE, CLEAN, FULL, ADAPTOR)
"""What is scored at every level: the base as it is, the pristine control, DNN switching, GearNN."""

PROMOTE: Final = "promote"
TEST: Final = "test"
"""Split roles: versions are chosen by the first and reported by the second."""

CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"
"""Aliases: the version in use, and the latest that was registered."""

TAG_KIND: Final = "gearnn.kind"
TAG_LEVEL: Final = "gearnn.level"
TAG_DISTORTION: Final = "gearnn.distortion"
TAG_BASE_URI: Final = "gearnn.base.uri"
TAG_BASE_FINGERPRINT: Final = "gearnn.base.fingerprint"
TAG_BASE_IDENTITY: Final = "gearnn.base.identity"
"""What the base's version was made from, weights and arguments; equal weights may compute differently."""
TAG_SHA256: Final = "gearnn.sha256"
TAG_NUM_VALUES: Final = "gearnn.num_values"
TAG_BOUND: Final = "gearnn.bound.values"
TAG_PLAN: Final = "gearnn.plan.digest"
TAG_DATA: Final = "gearnn.data.digest"
TAG_PROMOTE_DATA: Final = "gearnn.data.promote.digest"
TAG_LOGGED_MODEL: Final = "gearnn.logged_model"
TAG_IDENTITY: Final = "gearnn.identity"
"""sha256 of what a version was made from; the same identity is registered once."""

TAG_FIGURE: Final = "gearnn.figure"
"""Name of the figure that decides about a version; versions of GearNN 0.1 without it were scored by mIoU."""

LOSS_FULL: Final = "loss/full"
LOSS_PARTIAL: Final = "loss/partial"
NUM_VALUES: Final = "adaptor/num_values"
SHARE: Final = "adaptor/share_percent"


def metric_name(role: str, solution: str, figure: str) -> str:
    """Name of a score in MLflow.

    >>> metric_name(TEST, CLEAN, "miou")
    'test/clean_fine-tune/miou'
    """
    return f"{role}/{solution.replace(' ', '_')}/{figure}"


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
