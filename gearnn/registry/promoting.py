"""Which versions are in use: champions by a rule, challengers by age, and levels that are archived."""

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from gearnn import tracking
from gearnn import vocabulary as words
from gearnn.errors import RegistryError
from gearnn.registry.versions import Version, aliased, drop_alias, get_version, metrics, newest_of, set_alias

_IN_USE = "is champion"


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """When a version becomes champion.

    Attributes:
        rule: ``better``: when it scores higher than the champion; ``manual``: when people say so.
        margin: by how much more, in the metric's unit.
        over: name of a metric on the candidate's own run, such as the base's score, that it must exceed by
            the same margin; empty for none.
    """

    rule: Literal["better", "manual"] = "better"
    margin: float = 0.0
    over: str = ""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What became of a candidate.

    Attributes:
        champion: the version in use afterwards, or None.
        reason: why, in a few words.
    """

    champion: Version | None
    reason: str


def promote(
    candidate: Version, metric: str, promotion: Promotion | None = None, *, held: float | None = None
) -> Decision:
    """Make a version champion if a rule says so.

    Recorded scores are compared only between adaptors of the same base on the same frames. A champion of
    another base gives way, because it does not fit the present one; so does one that was scored on other
    frames, unless ``held`` tells what it scores on the candidate's.

    Args:
        candidate: the version.
        metric: name of the deciding metric on the versions' runs; larger is better.
        promotion: the rule.
        held: score of the present champion on the candidate's frames, where the recorded one is of others.
    """
    rule = promotion or Promotion()
    champion = aliased(candidate.name, words.CHAMPION)
    if champion is not None and champion.version == candidate.version:
        return Decision(champion=champion, reason=_IN_USE)
    objection = _objection(candidate, champion, metric, rule, held)
    if objection:
        return Decision(champion=champion, reason=objection)
    set_alias(candidate.name, words.CHAMPION, candidate.version)
    return Decision(champion=get_version(candidate.name, candidate.version), reason=_IN_USE)


def _objection(candidate: Version, champion: Version | None, metric: str, rule: Promotion, held: float | None) -> str:
    """Why a candidate does not become champion; nothing if it does."""
    if rule.rule == "manual":
        return "people decide, by the plan's rule"
    offered = metrics(candidate)
    if rule.over and not _exceeds(offered.get(metric), offered.get(rule.over), rule.margin):
        return _not_better(offered.get(metric), offered.get(rule.over), rule.margin, "the base")
    if champion is None or not is_rival(champion, candidate):
        return ""
    score = metrics(champion).get(metric) if are_scored_alike(champion, candidate) else held
    if score is None or _exceeds(offered.get(metric), score, rule.margin):
        return ""
    return _not_better(offered.get(metric), score, rule.margin, f"version {champion.version}")


def _exceeds(offered: float | None, held: float | None, margin: float) -> bool:
    return held is None or (offered is not None and offered > held + margin)


def _not_better(offered: float | None, held: float | None, margin: float, whom: str) -> str:
    by = f" by more than {margin:g}" if margin else ""
    ours = "nothing" if offered is None else f"{offered:.2f}"
    return f"{ours} is not better than {held:.2f} of {whom}{by}"


def is_rival(champion: Version, candidate: Version) -> bool:
    """Whether both adapt the same base."""
    ours, theirs = champion.tags, candidate.tags
    if ours.get(words.TAG_BASE_FINGERPRINT) != theirs.get(words.TAG_BASE_FINGERPRINT):
        return False
    return ours.get(words.TAG_BASE_IDENTITY) in (None, theirs.get(words.TAG_BASE_IDENTITY))


def are_scored_alike(champion: Version, candidate: Version) -> bool:
    """Whether the recorded scores of both are of the same frames."""
    return champion.tags.get(words.TAG_PROMOTE_DATA) == candidate.tags.get(words.TAG_PROMOTE_DATA)


def promote_base(base: Version) -> None:
    """Put a base into use; its adaptors are to be promoted right afterwards."""
    if words.CHAMPION not in base.aliases:
        set_alias(base.name, words.CHAMPION, base.version)
        _drop(base.name, words.CHALLENGER, if_version=base.version)


def challenge(version: Version) -> None:
    """Make a version challenger, unless a later one is; whoever looks last sees the newest of all."""
    present = aliased(version.name, words.CHALLENGER)
    chosen = 0 if present is None else int(present.version)
    if chosen >= int(version.version):
        return
    while (newest := newest_of(version.name)) != chosen:  # another machine may have registered meanwhile
        with suppress(RegistryError):  # or taken its version back, which was one too many
            set_alias(version.name, words.CHALLENGER, str(newest))
            chosen = newest


def archive(name: str) -> None:
    """Take a level's adaptors out of use; nothing is deleted, and the champion keeps the alias ``archived``.

    Args:
        name: of the registered model.
    """
    champion = aliased(name, words.CHAMPION) or aliased(name, words.CHALLENGER)
    if champion is not None:
        set_alias(name, words.ARCHIVED, champion.version)
    for alias in (words.CHAMPION, words.CHALLENGER):
        _drop(name, alias)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    tracking.client().set_registered_model_tag(name, words.TAG_RETIRED, now)


def restore(name: str) -> Version | None:
    """Put an archived level into use again, as it was; its champion, or None where it is not archived."""
    former = aliased(name, words.ARCHIVED)
    if former is None:
        return None
    set_alias(name, words.CHAMPION, former.version)
    set_alias(name, words.CHALLENGER, former.version)
    _drop(name, words.ARCHIVED)
    tracking.client().delete_registered_model_tag(name, words.TAG_RETIRED)
    return get_version(name, former.version)


def _drop(name: str, alias: str, *, if_version: str | None = None) -> None:
    carrier = aliased(name, alias)
    if carrier is not None and if_version in (None, carrier.version):
        drop_alias(name, alias)
