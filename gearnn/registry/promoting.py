"""Which versions are in use: champions by a rule, challengers by age, and levels that are archived."""

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from gearnn.errors import RegistryError
from gearnn.registry import runs
from gearnn.registry.names import (
    ARCHIVED,
    CHALLENGER,
    CHAMPION,
    TAG_BASE_FINGERPRINT,
    TAG_BASE_IDENTITY,
    TAG_DECISION,
    TAG_LEVEL,
    TAG_PROMOTE_DATA,
    TAG_RETIRED,
)
from gearnn.registry.versions import (
    Version,
    aliased,
    drop_alias,
    get_version,
    is_of,
    json_of,
    metrics,
    newest_of,
    set_alias,
)

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
    frames, unless ``held`` says what it scores on the candidate's, and one whose score is absent or NaN. A
    candidate without a score, as where the split has no truth, beats nobody.

    Args:
        candidate: the version.
        metric: name of the deciding metric on the versions' runs; larger is better.
        promotion: the rule.
        held: score of the present champion on the candidate's frames, where the recorded one is of others.
    """
    rule = promotion or Promotion()
    with runs.taking_turns(f"champion of {candidate.name}"):
        while True:
            champion = aliased(candidate.name, CHAMPION)
            if champion is not None and champion.version == candidate.version:
                return Decision(champion=champion, reason=_IN_USE)
            objection = _objection(candidate, champion, metric, rule, held)
            if _number(aliased(candidate.name, CHAMPION)) == _number(champion):  # nobody has decided meanwhile
                return _carry_out(candidate, champion, objection, rule)


def _carry_out(candidate: Version, champion: Version | None, objection: str, rule: Promotion) -> Decision:
    if not objection:
        set_alias(candidate.name, CHAMPION, candidate.version)
        return Decision(champion=get_version(candidate.name, candidate.version), reason=_IN_USE)
    if champion is not None and rule.rule != "manual" and not is_rival(champion, candidate):
        drop_alias(candidate.name, CHAMPION)  # it fits another base than the one in use
        champion = None
    return Decision(champion=champion, reason=objection)


def _number(version: Version | None) -> str:
    return "" if version is None else version.version


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
    if _exceeds(offered.get(metric), score, rule.margin):
        return ""
    return _not_better(offered.get(metric), score, rule.margin, f"version {champion.version}")


def _exceeds(offered: float | None, held: float | None, margin: float) -> bool:
    """Whether a score beats another; one that is absent or NaN, as without truth, beats none and is beaten by any."""
    if offered is None or math.isnan(offered):
        return False
    return held is None or math.isnan(held) or offered > held + margin


def _not_better(offered: float | None, held: float | None, margin: float, whom: str) -> str:
    if offered is None or math.isnan(offered):
        return f"it has no score, so it is not better than {whom}"
    by = f" by more than {margin:g}" if margin else ""
    return f"{offered:.2f} is not better than {held:.2f} of {whom}{by}"


def is_rival(champion: Version, candidate: Version) -> bool:
    """Whether both adapt the same base."""
    ours, theirs = champion.tags, candidate.tags
    if ours.get(TAG_BASE_FINGERPRINT) != theirs.get(TAG_BASE_FINGERPRINT):
        return False
    return ours.get(TAG_BASE_IDENTITY) in (None, theirs.get(TAG_BASE_IDENTITY))


def are_scored_alike(champion: Version, candidate: Version) -> bool:
    """Whether the recorded scores of both are of the same frames."""
    return champion.tags.get(TAG_PROMOTE_DATA) == candidate.tags.get(TAG_PROMOTE_DATA)


def without_adaptor(base: Version, versions: Sequence[Version]) -> list[str]:
    """Levels that are in use with another base, and have no adaptor of this one.

    Args:
        base: a base's version.
        versions: all adaptors of the registered base.
    """
    fitting = {version.name for version in versions if is_of(version, base)}
    in_use = {v.name: v.tags[TAG_LEVEL] for v in versions if CHAMPION in v.aliases}
    return [level for name, level in sorted(in_use.items()) if name not in fitting]


def promote_base(base: Version) -> None:
    """Put a base into use; its adaptors are to be promoted right afterwards.

    The base that was in use is left undecided, so that a plan that names it again finds it so.
    """
    former = aliased(base.name, CHAMPION)
    if former is not None and former.version == base.version:
        return
    if former is not None and TAG_DECISION in former.tags:
        runs.client().delete_model_version_tag(former.name, former.version, TAG_DECISION)
    set_alias(base.name, CHAMPION, base.version)
    _drop(base.name, CHALLENGER, if_version=base.version)


def decided(name: str, version: str, reason: str) -> None:
    """Keep what became of a version with it."""
    runs.client().set_model_version_tag(name, version, TAG_DECISION, reason)


def challenge(version: Version) -> None:
    """Make a version challenger, unless a later one is; whoever looks last sees the newest of all.

    A level that was archived is so no longer.
    """
    if aliased(version.name, ARCHIVED) is not None:
        _forget_archive(version.name)
    chosen = int(_number(aliased(version.name, CHALLENGER)) or 0)
    if chosen >= int(version.version):
        return
    while (newest := newest_of(version.name)) != chosen:  # another machine may have registered meanwhile
        with suppress(RegistryError):  # or taken its version back, which was one too many
            set_alias(version.name, CHALLENGER, str(newest))
            chosen = newest


def archive(name: str) -> None:
    """Take a level's adaptors out of use; nothing is deleted, and :func:`restore` brings back what was.

    The champion, or the challenger where there is none, gets the alias ``archived``, for people. Whatever
    this is interrupted by, done again it goes on.

    Args:
        name: of the registered model.
    """
    model = runs.client().get_registered_model(name)
    in_use = {alias: str(v) for alias, v in model.aliases.items() if alias in (CHAMPION, CHALLENGER)}
    if in_use and TAG_RETIRED not in model.tags:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        runs.client().set_registered_model_tag(name, TAG_RETIRED, json.dumps({"at": now, **in_use}))
    if in_use:
        set_alias(name, ARCHIVED, in_use.get(CHAMPION, in_use.get(CHALLENGER, "")))
    for alias in in_use:
        drop_alias(name, alias)


def restore(name: str) -> Version | None:
    """Put an archived level into use again, with the aliases that it had; its champion, or None if it had none."""
    tags = runs.client().get_registered_model(name).tags
    former = json_of(tags.get(TAG_RETIRED, "{}"), f"{name}, tag {TAG_RETIRED}")
    for alias in (CHAMPION, CHALLENGER):
        if alias in former:
            set_alias(name, alias, str(former[alias]))
    _forget_archive(name)
    return aliased(name, CHAMPION)


def _forget_archive(name: str) -> None:
    client = runs.client()
    if TAG_RETIRED in client.get_registered_model(name).tags:
        client.delete_registered_model_tag(name, TAG_RETIRED)
    _drop(name, ARCHIVED)


def _drop(name: str, alias: str, *, if_version: str | None = None) -> None:
    carrier = aliased(name, alias)
    if carrier is not None and if_version in (None, carrier.version):
        drop_alias(name, alias)
