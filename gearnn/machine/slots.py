"""Leases of devices, so that two computations of one machine never share a GPU, nor fight for cores.

A lease is a lock on a file that this user's processes share: one file a GPU, named by the GPU's uuid,
so that processes which see different GPUs under the same number agree; and one file a core. Locks go
with the process that holds them, however it ends. Computations of other users are not known here.
"""

import fcntl
import hashlib
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import torch

from gearnn.errors import PlanError
from gearnn.store.files import telling_of_disks

_LONGEST_PAUSE = 0.5


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Something that one computation at a time may use.

    Attributes:
        name: of its lock, the same in every process of the machine.
        device: what torch calls it in this process; ``cpu`` for a core.
    """

    name: str
    device: str


@dataclass(frozen=True, kw_only=True)
class Lease:
    """What a computation holds: the device it asked for, and the one it got."""

    asked: str
    device: str


_held: ContextVar[Lease | None] = ContextVar("lease", default=None)


def folder() -> Path:
    """Where the locks lie: ``GEARNN_SLOTS``, else a folder of this user among the temporary files."""
    return Path(os.environ.get("GEARNN_SLOTS") or Path(tempfile.gettempdir()) / f"gearnn-slots-{os.getuid()}")


def cores() -> list[int]:
    """The cores that this process may run on, by number."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def slots_of(device: str) -> tuple[Slot, ...]:
    """All slots that would do for a device: of every GPU, of one of them, or of the cores.

    Args:
        device: as in a plan: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, or any other torch device.

    Raises:
        PlanError: this machine has no such GPU.
    """
    has_gpus = torch.cuda.is_available()
    if device == "cpu" or (device == "auto" and not has_gpus):
        return tuple(Slot(name=f"core-{number}", device="cpu") for number in cores())
    if device not in ("auto", "cuda") and not device.startswith("cuda:"):
        return (Slot(name=device.replace(":", "-"), device=device),)
    gpus = tuple(_gpu(index) for index in range(torch.cuda.device_count() if has_gpus else 0))
    found = tuple(slot for slot in gpus if device in ("auto", "cuda", slot.device))
    if not found:
        raise PlanError(f"plan: device: expected one that this machine has, but got {device!r}: {len(gpus)} GPUs here")
    return found


def _gpu(index: int) -> Slot:
    return Slot(name=f"gpu-{torch.cuda.get_device_properties(index).uuid}", device=f"cuda:{index}")


@contextmanager
def leased(
    device: str,
    threads: int = 1,
    *,
    slots: Sequence[Slot] | None = None,
    on_wait: Callable[[str], None] | None = None,
    check: Callable[[], None] | None = None,
) -> Iterator[str]:
    """Hold a device while the context lasts: one GPU, or as many cores as the computation has threads.

    Within a lease, asking for the same device gives what is held already.

    Args:
        device: as in a plan.
        threads: number of cores, where it is the CPU's; at most all of them are taken.
        slots: what there is; default: what this machine has for the device.
        on_wait: called once, with words for what is waited for, if it is.
        check: called while waiting; what it raises ends the wait.

    Yields:
        The device to compute on, as torch calls it here.
    """
    held = _held.get()
    if held is not None and held.asked == device:
        yield held.device
        return
    slots = slots_of(device) if slots is None else slots
    number = min(threads, len(slots)) if slots[0].device == "cpu" else 1
    with ExitStack() as locks:
        taken = _wait(slots, number, locks, on_wait, check)
        token = _held.set(Lease(asked=device, device=taken[0].device))
        try:
            yield taken[0].device
        finally:
            _held.reset(token)


def device_for(device: str) -> str:
    """The device that the running computation has a lease of, where it asked for this one; else the device itself."""
    held = _held.get()
    return held.device if held is not None and held.asked == device else device


def _wait(
    slots: Sequence[Slot],
    number: int,
    locks: ExitStack,
    on_wait: Callable[[str], None] | None,
    check: Callable[[], None] | None,
) -> list[Slot]:
    """Take slots one by one as they come free; only one computation at a time does, the others queue behind it.

    So who needs several is not overtaken for ever by those who need one, and who collects waits for
    computations only, which wait for nobody.
    """
    turn = Slot(name=f"turn-{hashlib.sha256(repr([slot.name for slot in slots]).encode()).hexdigest()[:12]}", device="")
    pause, taken = 0.02, list[Slot]()
    with ExitStack() as queue:
        is_first = False
        while True:
            is_first = is_first or _lock(turn, queue)
            if is_first:
                taken += _try([slot for slot in slots if slot not in taken], number - len(taken), locks)
            if len(taken) == number:
                return taken
            if on_wait is not None:
                on_wait(_wanted(slots, number))
                on_wait = None
            if check is not None:
                check()
            time.sleep(pause * random.uniform(0.5, 1.0))  # two that want the same do not retry in step
            pause = min(2 * pause, _LONGEST_PAUSE)


def _try(slots: Sequence[Slot], number: int, locks: ExitStack) -> list[Slot]:
    taken: list[Slot] = []
    for slot in slots:
        if len(taken) < number and _lock(slot, locks):
            taken.append(slot)
    return taken


def _lock(slot: Slot, locks: ExitStack) -> bool:
    """Lock a slot until the stack is closed, if it is free; the file says who has it."""
    with telling_of_disks(folder()):
        folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder() / slot.name, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    locks.callback(_release, descriptor)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return True


def _release(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    fcntl.flock(descriptor, fcntl.LOCK_UN)  # children that read frames have inherited the open file
    os.close(descriptor)


def _wanted(slots: Sequence[Slot], number: int) -> str:
    holders = {path.read_text() for slot in slots if (path := folder() / slot.name).is_file()} - {""}
    by = f", used by process {', '.join(sorted(holders))}" if holders else ""
    if slots[0].device == "cpu":
        return f"{number} of {len(slots)} cores{by}"
    return f"{' or '.join(slot.device for slot in slots)}{by}"
