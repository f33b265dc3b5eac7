"""Names of tags, aliases and metrics in MLflow, decided here once for every use.

Metrics of a level's run are ``<split role>/<solution>/<figure>``, such as ``test/adaptor/miou``;
MLflow groups them by the part before the slash. Tags start with ``gearnn.``.
"""

from typing import Final

CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"
ARCHIVED: Final = "archived"
"""Aliases: the version in use, the latest, and the one that was in use when its level was retired."""

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
TAG_FRAMES: Final = "gearnn.data.frames"
"""Which splits it was trained, chosen and reported on, and what they have in common, in words."""

TAG_LOGGED_MODEL: Final = "gearnn.logged_model"
TAG_IDENTITY: Final = "gearnn.identity"
"""sha256 of what a version was made from; the same identity is registered once."""

TAG_MADE_FROM: Final = "gearnn.made_from"
"""JSON of what decides an adaptor: base, frames, recipe, versions of steps; a retraining compares it with the plan."""

TAG_DECISION: Final = "gearnn.decision"
"""What became of a version, in words; one without it was registered by a run that did not get that far."""

TAG_RETIRED: Final = "gearnn.retired"
"""JSON, on a registered model: when its level was archived, and which versions had which alias until then."""

TAG_ADAPTORS: Final = "gearnn.adaptors"
"""JSON of a gearbox: level -> URI of the adaptor's version."""

TAG_FIGURE: Final = "gearnn.figure"
"""Name of the figure that decides about a version; versions of GearNN 0.1 without it were scored by mIoU."""

TAG_BENCHMARK: Final = "gearnn.benchmark.digest"
TAG_SOLUTION: Final = "gearnn.benchmark.solution"
"""Which solution of a benchmark a run is about, as a digest: names hold what MLflow's filters do not take."""

FACT_FILES: Final = "gearnn.files"
"""In the metadata of a version's MLmodel file, not a tag: sha256 of each of its files, by name."""

LOSS_FULL: Final = "loss/full"
LOSS_PARTIAL: Final = "loss/partial"
NUM_VALUES: Final = "adaptor/num_values"
SHARE: Final = "adaptor/share_percent"


def metric_name(role: str, solution: str, figure: str) -> str:
    """Name of a score in MLflow.

    >>> metric_name("test", "clean fine-tune", "miou")
    'test/clean_fine-tune/miou'
    """
    return f"{role}/{solution.replace(' ', '_')}/{figure}"
