"""Make what the plans want and the registry lacks, and nothing else."""

from collections.abc import Sequence
from pathlib import Path

from prefect import flow, get_run_logger
from prefect.runtime import flow_run

from flows.adapt import adapt
from flows.running.notify import HOOKS
from gearnn.errors import LevelsFailedError
from gearnn.levels import DistortionLevel
from gearnn.plan import Plan
from tasks.progress import stopping_work
from tasks.records import Finding, Registered, Retrained
from tasks.registering.register import register_gearbox
from tasks.retraining.compare import compare
from tasks.retraining.report import publish_findings, publish_registered
from tasks.retraining.retrain import archive_level, read_plans, restore_level

TO_BE_MADE = ("missing", "changed", "undecided")
"""States of levels for which the plan is run; what is stored of them is not done again."""


def _run_name() -> str:
    plans = flow_run.parameters.get("plans") or ()
    return f"retrain {', '.join(Path(plan).stem for plan in plans)}"


@flow(name="retrain", flow_run_name=_run_name, **HOOKS)
@stopping_work()
def retrain(
    plans: list[str],
    levels: list[str] | None = None,
    archive: bool = False,
    dry_run: bool = False,
    commit: str | None = None,
) -> Retrained:
    """Compare plans with the registry, and make what is missing or out of date.

    New versions become challenger, and champion by their plan's rule. A plan that fails does not hold up
    the others; the run fails afterwards.

    Args:
        plans: files or folders of plans, where the run runs.
        levels: only these; none: all.
        archive: take levels of these plans' bases that no plan has out of use. Give all plans of a base then.
        dry_run: only say what would be done, and why.
        commit: of the code and the plans; a worker checks it out before this starts (infra/checkout.sh).

    Raises:
        LevelsFailedError: at least one level failed, or the frames or the base of a plan cannot be read.
        PlanError: no plans, one that is wrong, or two that contradict each other; nothing was done.
    """
    read = read_plans(plans)
    wanted = [str(DistortionLevel.parse(level)) for level in levels or ()]
    findings: list[Finding] = compare(read, wanted)
    publish_findings(findings)
    for finding in findings:
        get_run_logger().info("%s is %s: %s", finding.name, finding.state, "; ".join(finding.reasons) or "as wanted")
    if dry_run:
        return Retrained(findings=tuple(findings))
    registered, failures = _make(read, findings)
    archived = _set_aside(findings) if archive else []
    changed = [f for f in findings if f.state == "archived"]
    _bundle_again(findings if archive else changed, failures)  # an earlier run may have died between both
    publish_registered(registered)
    if failures:
        raise LevelsFailedError("; ".join(failures), registered)
    return Retrained(findings=tuple(findings), registered=tuple(registered), archived=tuple(archived))


def _make(plans: dict[str, Plan], findings: Sequence[Finding]) -> tuple[list[Registered], list[str]]:
    """Restore what was archived, run each plan for what it lacks: what was registered, and what failed."""
    registered: list[Registered] = []
    failures = [f"{f.plan}: {'; '.join(f.reasons)}" for f in findings if f.state == "failed"]
    for finding in findings:
        if finding.state == "archived":
            restore_level(finding)
    for source, plan in plans.items():
        lacking = [f.level for f in findings if f.plan == source and f.state in TO_BE_MADE]
        if not lacking:
            continue
        try:
            registered += [row.registered for row in adapt(plan.only(lacking)).rows if row.registered is not None]
        except Exception as error:  # whatever a plan died of, the others go on
            registered += getattr(error, "registered", ())
            failures.append(f"{source}: {error}")
            get_run_logger().error("plan %s failed: %s", source, error)
    return registered, failures


def _set_aside(findings: Sequence[Finding]) -> list[str]:
    retired = [finding for finding in findings if finding.state == "retired"]
    for finding in retired:
        archive_level(finding)
    return [finding.name for finding in retired]


def _bundle_again(changed: Sequence[Finding], failures: list[str]) -> None:
    """The gearbox of every base of which a level came back or went."""
    for base in sorted({finding.base for finding in changed}):
        try:
            register_gearbox(base)
        except Exception as error:  # adaptors are in their place all the same
            failures.append(f"{base}.gearbox: {error}")
