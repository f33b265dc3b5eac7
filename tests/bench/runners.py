"""How the fan-out scales: wall time of one fixed load over 1, 2 and 4 workers, for `make bench`."""

import hashlib
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import cache

from prefect import flow, task
from prefect.testing.utilities import prefect_test_harness

from flows.running.runner import start
from gearnn.plan import Plan

TASKS, ROUNDS = 8, 1000
"""Number of equal tasks, and of megabytes that each hashes: about a second of one core."""

WORKERS = (1, 2, 4)


def work(rounds: int) -> str:
    """Hash a megabyte time and again: no sleep, and as in torch no lock of Python's."""
    block, digest = bytes(1 << 20), hashlib.sha256()
    for _ in range(rounds):
        digest.update(block)
    return digest.hexdigest()


@task(name="load", persist_result=False)
def load(rounds: int) -> str:
    """The same as a step."""
    return work(rounds)


@cache
def bare(workers: int) -> float:
    """Wall time in seconds on processes without Prefect: what the machine can give."""
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(work, [1] * 4 * workers))
        started = time.perf_counter()
        list(pool.map(work, [ROUNDS] * TASKS))
        return time.perf_counter() - started


def seconds(runner: str, workers: int) -> float:
    """Wall time of all tasks on workers that are up."""
    plan = Plan.model_construct(runner=runner, workers=workers, device="cpu", threads=1)

    @flow(name=f"load on {runner}")
    def run() -> float:
        with ExitStack() as stack:
            here = start(plan, stack)
            _ = [future.result() for future in [here.submit(load, {"rounds": 100}) for _ in range(4 * workers)]]
            started = time.perf_counter()
            _ = [future.result() for future in [here.submit(load, {"rounds": ROUNDS}) for _ in range(TASKS)]]
            return time.perf_counter() - started

    return run()


def scaling(runner: str) -> tuple[float, str]:
    """Wall time with 2 workers over that of 2 bare processes; in words, 1, 2 and 4 workers as shares of one."""
    with prefect_test_harness(server_startup_timeout=180):
        found = {workers: seconds(runner, workers) for workers in WORKERS}
    told = [f"{workers} {found[workers]:.1f} s ({found[workers] / found[1]:.2f})" for workers in WORKERS]
    limit = [f"{workers} {bare(workers):.1f} s ({bare(workers) / bare(1):.2f})" for workers in WORKERS]
    return found[2] / bare(2), (
        f"{TASKS} equal tasks, by workers: {', '.join(told)}; bare processes: {', '.join(limit)}; "
        f"{os.cpu_count()} processors"
    )
