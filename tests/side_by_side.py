"""How pytest-xdist spreads the tests over processes: `make test`, or `pytest -n auto`.

A file is run by one process from its first test to its last, because its tests share what they make. Each process
has folders, ports and a Prefect server of its own. The files that use the session's real servers stay together, so
that these are started once. What takes longest comes first, so that no process works alone at the end.
"""

import os

GIGABYTES_OF_A_PROCESS = 3.0
"""At most, with all that its tests start."""

WITH_SERVERS = (
    "tests/flows/test_resume.py",
    "tests/infra/",
    "tests/registry/test_registering.py",
    "tests/tasks/doctor/test_doctor.py",
)
LONG = (
    "tests/distortions/test_plugins.py",
    "tests/flows/",
    "tests/test_main.py",
    "tests/test_real_data.py",
    "tests/datasets/test_cache.py",
)


def number_of_processes() -> int:
    """One more than there are cores, because tests wait for servers half of the time; fewer where memory is short."""
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return max(1, min(_cores() + 1, int(gigabytes / GIGABYTES_OF_A_PROCESS)))


def threads_of_each(processes: int) -> int:
    """Of torch, so that all processes together have about as many as there are cores."""
    return max(1, _cores() // processes)


def turn(test: str) -> int:
    """When a test is run, by its id in pytest: the lower, the earlier."""
    return next((number for number, files in enumerate((WITH_SERVERS, LONG)) if test.startswith(files)), 2)


def unit(test: str) -> str:
    """What one process runs as a whole: a test's file, or all those with servers."""
    return "with servers" if test.startswith(WITH_SERVERS) else test.partition("::")[0]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
