"""What ``gearnn doctor`` looks at in a plan: whether this machine could run it now."""

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from gearnn.errors import PlanError, StoreError
from gearnn.plan import Plan
from gearnn.plan.opened import Opened
from gearnn.plan.preflight import check_device
from gearnn.store.addresses import shown
from gearnn.store.bucket import Bucket, is_remote
from tasks.adapting.preflight import check_runner, check_space, where_it_computes
from tasks.doctor.checks import Check, attempt

_SECONDS_TO_ANSWER = 3.0
_LONGEST_S = 15.0


def plan_checks(path: Path) -> Iterator[Check]:
    """The plan itself, then its store, frames, base, device and runner; quick looks, no frame is decoded."""
    read: list[Plan] = []
    yield from attempt("plan", partial(_read, path, read))
    looks: tuple[tuple[str, Callable[[Plan], str]], ...] = (
        ("store", _store),
        ("frames", _frames),
        ("base", _base),
        ("device", _device),
        ("runner", _runner),
    )
    for plan in read:
        for name, look in looks:
            yield from attempt(f"  {name}", partial(_line, f"  {name}", look, plan), _LONGEST_S)


def _read(path: Path, read: list[Plan]) -> Iterator[Check]:
    plan = Plan.load(path)
    read.append(plan)
    number = len(plan.distortion_levels)
    summary = f"{path}: {number} level{'s' if number > 1 else ''}, {plan.base.network} on {plan.data.name}"
    yield Check(mark="ok", what="plan", found=summary)


def _line(what: str, look: Callable[[Plan], str], plan: Plan) -> Iterator[Check]:
    yield Check(mark="ok", what=what, found=look(plan))


def _store(plan: Plan) -> str:
    store = Opened(plan).store
    where = plan.store
    if is_remote(plan.store):
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if endpoint:
            _reach(plan.store, endpoint)
            where += f" at {shown(endpoint)}"
    store.check()
    return f"{where} can be written to, read from and deleted from"


def _reach(store: str, endpoint: str) -> None:
    """Find out quickly whether there is a server at all; boto3 would try for long."""
    plain = shown(endpoint)
    host, _, port = plain.partition("://")[2].partition("/")[0].partition(":")
    try:
        default = 443 if plain.startswith("https") else 80
        socket.create_connection((host, int(port or default)), timeout=_SECONDS_TO_ANSWER).close()
    except (OSError, ValueError) as error:
        told = f"{store}: expected S3 to answer at {plain}, but got: {error}"
        raise StoreError(f"{told}; check AWS_ENDPOINT_URL and whether the server runs") from error


def _frames(plan: Plan) -> str:
    if plan.data.root is not None and is_remote(plan.data.root):
        items = Bucket(plan.data.root).items()
        if not items:
            raise StoreError(f"{plan.data.root}: expected frames there, but the bucket has nothing below it")
        return f"{len(items):,} objects of {sum(item.size for item in items) / 1e6:,.0f} MB below {plan.data.root}"
    counts = {split: len(dataset) for split, dataset in Opened(plan).splits().items()}
    where = plan.data.root or plan.data.name
    return f"{', '.join(f'{number:,} in {split}' for split, number in counts.items())} of {where}"


def _base(plan: Plan) -> str:
    opened = Opened(plan)
    wanted, root = check_space(opened, opened.base()), opened.store.root
    free = shutil.disk_usage(next(path for path in (root, *root.parents) if path.is_dir())).free
    start = plan.base.checkpoint or "to be trained"
    return f"{start}; a run takes about {wanted / 1e6:,.0f} MB of {free / 1e6:,.0f} MB free, and distorted frames"


def _device(plan: Plan) -> str:
    ours = where_it_computes(plan)
    check_device(ours)
    compute = Opened(ours).compute
    elsewhere = "the cluster's; here " if ours is not plan else ""
    return f"{plan.device}: {elsewhere}{compute.device}, {compute.precision}"


def _runner(plan: Plan) -> str:
    place = plan.runner.partition("://")[2]
    check_runner(plan)
    if not place:
        return plan.runner
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise PlanError(f"plan: runner: nobody answers at {plan.runner} ({error}); start it, or check it") from error
    return f"{plan.runner} answers"
