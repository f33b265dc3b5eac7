"""Distort the frames of a plan at all of its levels before anything trains on them, with all cores."""

from collections.abc import Callable, Sequence

from prefect import get_run_logger, task

from gearnn.datasets.cache import Filled, Job, fill_cache
from gearnn.levels import DistortionLevel
from gearnn.plan import Plan
from gearnn.plan.opened import Opened
from tasks.adapting.finetune import full_finetune
from tasks.progress import counter, step_done
from tasks.records import Base, Data, Frames


@task(name="distort frames")
def distort_frames(plan: Plan, base: Base, data: Data) -> Frames:
    """Fill the cache of distorted frames at the levels that are still to be trained; what is there stays.

    No record of it is kept: the frames themselves say which of them are missing. A level that a codec
    refuses is left to the steps that train for it, which fail with the reason.

    Raises:
        StoreError: the disk is full; what was finished stays.
    """
    levels = [DistortionLevel(), *plan.distortion_levels]
    opened = Opened(plan)
    wanted = [level for level in levels if full_finetune.known(opened, base, data, str(level)) is None]
    filled = fill_frames(opened, wanted, counter("distort frames")) if wanted else Filled()
    for level, reason in filled.failures.items():
        get_run_logger().warning("level %s: %s", level, reason)
    step_done("distort frames")
    return Frames(num_written=filled.num_written, num_bytes=filled.num_bytes)


def fill_frames(opened: Opened, levels: Sequence[DistortionLevel], on_done: Callable[[int, int], None]) -> Filled:
    """Make the frames of all splits at some levels; see :func:`gearnn.datasets.cache.fill_cache`."""
    jobs = [Job(dataset=dataset, levels=tuple(levels)) for dataset in opened.splits().values()]
    return fill_cache(jobs, opened.store.frames, on_done=on_done)
