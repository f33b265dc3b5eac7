"""Leases as several real processes see them; GPUs are simulated by slots that a test hands over."""

import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from threading import Timer

import pytest

from gearnn.errors import PlanError, StoppedError
from gearnn.machine import slots
from gearnn.machine.slots import Slot, device_for, leased, slots_of
from gearnn.plan import Plan
from gearnn.plan.opened import Opened
from tests.conftest import REPOSITORY

GPUS = [Slot(name="gpu-a", device="cuda:0"), Slot(name="gpu-b", device="cuda:1")]

COMPUTATION = """
import sys, time
from pathlib import Path
from gearnn.machine.slots import Slot, leased
go, seconds, *gpus = sys.argv[1:]
print("ready", flush=True)
while not Path(go).exists():
    time.sleep(0.01)
found = [Slot(name=gpu, device=f"cuda:{index}") for index, gpu in enumerate(gpus)]
with leased("cuda", slots=found) as device:
    start = time.monotonic()
    print("has", device, flush=True)
    time.sleep(float(seconds))
    print(found[int(device[-1])].name, start, time.monotonic(), flush=True)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GEARNN_SLOTS", str(tmp_path / "slots"))
    return tmp_path / "slots"


def computation(seconds: float, *gpus: str, go: Path = REPOSITORY) -> subprocess.Popen[str]:
    """A process that is ready, and takes a GPU for some seconds once there is a file ``go``."""
    command = [sys.executable, "-c", COMPUTATION, str(go), str(seconds), *gpus]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def holding(seconds: float, *gpus: str) -> subprocess.Popen[str]:
    """The same, that has its GPU."""
    process = computation(seconds, *gpus)
    assert process.stdout is not None
    assert process.stdout.readline() == "has cuda:0\n"
    return process


def intervals(processes: list[subprocess.Popen[str]], go: Path) -> list[tuple[str, float, float]]:
    """(GPU, from, to) of each, when all start at once; the clock is one for all processes of a machine."""
    go.touch()
    lines = [process.communicate(timeout=120)[0].splitlines()[-1].split() for process in processes]
    return [(gpu, float(start), float(end)) for gpu, start, end in lines]


def most_at_once(found: list[tuple[str, float, float]]) -> int:
    return max(sum(start <= moment < end for _, start, end in found) for _, moment, _ in found)


def test_processes_never_share_a_gpu_and_use_both(tmp_path: Path) -> None:
    go = tmp_path / "go"
    found = intervals([computation(0.7, "gpu-a", "gpu-b", go=go) for _ in range(4)], go)
    assert most_at_once(found) == 2
    for gpu in ("gpu-a", "gpu-b"):
        own = sorted((start, end) for name, start, end in found if name == gpu)
        assert own
        assert all(end <= start for (_, end), (start, _) in pairwise(own))


def test_processes_that_number_gpus_differently_agree_by_their_uuids(tmp_path: Path) -> None:
    go = tmp_path / "go"
    found = intervals([computation(0.5, *gpus, go=go) for gpus in (("gpu-b",), ("gpu-a", "gpu-b"), ("gpu-b",))], go)
    own = sorted((start, end) for name, start, end in found if name == "gpu-b")
    assert len(own) >= 2
    assert all(end <= start for (_, end), (start, _) in pairwise(own))


def test_a_killed_process_leaves_its_gpu_free() -> None:
    killed = holding(600, "gpu-a")
    with pytest.raises(StoppedError), leased("cuda", slots=GPUS[:1], check=_stop):
        pass
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    with leased("cuda", slots=GPUS[:1], check=_stop) as device:
        assert device == "cuda:0"


def _stop() -> None:
    raise StoppedError("asked to")


def test_it_is_said_once_what_is_waited_for_and_who_has_it() -> None:
    holder = holding(600, "gpu-a")
    told: list[str] = []

    def wait(said: str) -> None:
        told.append(said)
        Timer(1.0, holder.kill).start()

    with leased("cuda", slots=GPUS[:1], on_wait=wait):
        pass
    assert told == [f"cuda:0, used by process {holder.pid}"]
    holder.communicate()


def test_a_lease_within_a_lease_is_the_same_one() -> None:
    assert device_for("cuda") == "cuda"
    with leased("cuda", slots=GPUS) as device, leased("cuda", slots=GPUS[1:]) as again:
        assert again == device == device_for("cuda") == "cuda:0"
        assert device_for("cpu") == "cpu"
    assert device_for("cuda") == "cuda"


def test_threads_of_one_process_exclude_each_other_too(folder: Path) -> None:
    with leased("cuda", slots=GPUS[:1]), pytest.raises(StoppedError), leased("cuda:0", slots=GPUS[:1], check=_stop):
        pass
    assert (folder / "gpu-a").read_text() == ""


def test_a_computation_on_the_cpu_takes_as_many_cores_as_it_has_threads() -> None:
    cores = [Slot(name=f"core-{number}", device="cpu") for number in range(4)]
    told: list[str] = []

    def one_more(threads: int) -> bool:
        """In a context of its own, as in another thread."""
        token = slots._held.set(None)
        try:
            with leased("cpu", threads, slots=cores, on_wait=told.append, check=_stop):
                return True
        except StoppedError:
            return False
        finally:
            slots._held.reset(token)

    with leased("cpu", 3, slots=cores):
        assert one_more(1)
        assert not one_more(2)
        assert not one_more(99)  # takes all there are, but not less
    assert told == [f"{wanted} of 4 cores, used by process {os.getpid()}" for wanted in (2, 4)]
    assert one_more(99)


def test_slots_are_those_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [slot.device for slot in slots_of("cpu")] == ["cpu"] * len(slots.cores())
    assert slots_of("mps") == (Slot(name="mps", device="mps"),)
    _two_gpus(monkeypatch)
    assert slots_of("auto") == slots_of("cuda") == tuple(GPUS)
    assert slots_of("cuda:1") == (GPUS[1],)
    with pytest.raises(PlanError, match="expected one that this machine has, but got 'cuda:2': 2 GPUs here"):
        slots_of("cuda:2")


def _two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr(slots, "_gpu", lambda index: GPUS[index])


def test_a_step_computes_on_the_gpu_of_its_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {
        "base": {"name": "drn_d_22_quarter", "num_classes": 9, "train": {}},
        "data": {"name": "streets", "frames": {"train": 1, "val": 1, "test": 1}},
        "levels": ["jpeg:quality=10"],
    }
    plan = Plan.read(content, source="test")
    asked: list[str] = []
    monkeypatch.setattr("torch.empty", lambda *_, device: asked.append(str(device)))
    with leased("cuda", slots=GPUS), leased(plan.device, slots=GPUS[1:]):
        _ = Opened(plan.model_copy(update={"precision": "fp32"})).compute
    assert asked == ["cuda:1"]


GREEDY = """
import sys, time
from gearnn.machine.slots import Slot, leased
print("ready", flush=True)
end = time.monotonic() + 8
while time.monotonic() < end:
    with leased("cpu", 1, slots=[Slot(name=f"core-{n}", device="cpu") for n in (0, 1)]):
        time.sleep(0.1)
"""


def test_who_needs_two_cores_is_not_overtaken_for_ever_by_those_who_need_one(folder: Path) -> None:
    greedy = [
        subprocess.Popen([sys.executable, "-c", GREEDY], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
        for _ in range(2)
    ]
    for process in greedy:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    both = [Slot(name=f"core-{n}", device="cpu") for n in (0, 1)]
    with leased("cpu", 2, slots=both):
        assert any(process.poll() is None for process in greedy)  # they would go on
    for process in greedy:
        process.kill()
        process.communicate()
