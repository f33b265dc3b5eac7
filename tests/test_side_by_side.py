"""What `make test` does with the tests: how many processes, which files together, and in which order."""

import os

import pytest

from tests import side_by_side
from tests.conftest import REPOSITORY


@pytest.mark.parametrize(
    ("cores", "gigabytes", "expected"), [(1, 24, 2), (2, 24, 3), (16, 24, 8), (2, 4, 1), (2, 1, 1)]
)
def test_as_many_processes_as_keep_the_cores_busy_and_fit_into_memory(
    cores: int, gigabytes: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 2**12, "SC_PHYS_PAGES": gigabytes * 2**18}.get)
    assert side_by_side.number_of_processes() == expected


@pytest.mark.parametrize(("cores", "processes", "expected"), [(1, 2, 1), (2, 3, 1), (16, 8, 2)])
def test_their_threads_share_the_cores(
    cores: int, processes: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert side_by_side.threads_of_each(processes) == expected


def test_files_with_servers_are_one_unit_and_the_first_and_every_other_file_is_its_own() -> None:
    deployments, resume = "tests/infra/test_deployments.py::test_a[b::c]", "tests/flows/test_resume.py::test_d"
    assert side_by_side.unit(deployments) == side_by_side.unit(resume)
    tests = ["tests/test_levels.py::test_e[f::g]", "tests/flows/test_adapt.py::test_h", deployments, resume]
    assert sorted(tests, key=side_by_side.turn) == [deployments, resume, *tests[1::-1]]
    assert [side_by_side.unit(test) for test in tests[:2]] == ["tests/test_levels.py", "tests/flows/test_adapt.py"]


def test_the_files_that_are_named_are_there() -> None:
    for path in (*side_by_side.WITH_SERVERS, *side_by_side.LONG):
        assert (REPOSITORY / path).exists(), path
