"""The cache of distorted frames at scale: filling it with all cores, its size, and clearing it.

Training and evaluation fill the cache frame by frame as they go; filling it first decodes every source
frame once for all levels, in parallel processes. A killed run goes on with the frames that are missing.
"""

import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

from gearnn.datasets.distorted import DistortedDataset
from gearnn.datasets.frames import FrameDataset
from gearnn.distortions import encode_clip, sees_clips
from gearnn.errors import InputError, StoreError
from gearnn.levels import DistortionLevel
from gearnn.store.files import Usage, inside, remove_folder, usage_of, write_together

_CHUNK = 8
_WORTH_A_POOL = 64


@dataclass(frozen=True, kw_only=True)
class Job:
    """Frames of one split, wanted at some levels."""

    dataset: FrameDataset
    levels: tuple[DistortionLevel, ...]


@dataclass
class Filled:
    """What filling did.

    Attributes:
        num_written: files that were missing.
        num_bytes: their size.
        failures: level -> why its frames cannot be made; the other levels are done.
    """

    num_written: int = 0
    num_bytes: int = 0
    failures: dict[str, str] = field(default_factory=dict)


def fill_cache(
    jobs: Sequence[Job],
    folder: Path,
    *,
    processes: int | None = None,
    on_done: Callable[[int, int], None] | None = None,
) -> Filled:
    """Make every frame that is missing.

    Args:
        jobs: splits and levels.
        folder: the cache.
        processes: how many encode at a time; None takes one a core. They are started afresh, so a
            script that calls this needs the usual ``if __name__ == "__main__"``.
        on_done: called with (frames done, frames in all), a frame counting once a level.

    Raises:
        DataError: a source frame cannot be read.
        StoreError: the disk is full; what was finished stays, and a further call goes on from there.
    """
    filled = Filled()
    chunks = [
        (number, range(start, min(start + _CHUNK, len(job.dataset))))
        for number, job in enumerate(jobs)
        for start in range(0, len(job.dataset), _CHUNK)
    ]
    sizes = {number: len(job.levels) for number, job in enumerate(jobs)}
    total, done = sum(len(job.dataset) * len(job.levels) for job in jobs), 0
    workers = min(processes or _cores(), len(chunks)) if total >= _WORTH_A_POOL else 1
    for (number, indices), result in _in_processes(jobs, folder, chunks, workers):
        filled.num_written += result.num_written
        filled.num_bytes += result.num_bytes
        filled.failures |= result.failures
        done += sizes[number] * len(indices)
        if on_done is not None:
            on_done(done, total)
    return filled


def usage(folder: Path) -> list[Usage]:
    """How much every level takes, largest first; files that a killed run left unfinished are counted too."""
    levels = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return sorted(map(usage_of, levels), key=lambda entry: -entry.num_bytes)


def clear(folder: Path, names: Sequence[str] | None = None) -> Usage:
    """Remove frames.

    Args:
        folder: the cache.
        names: slugs of levels; None removes all.

    Returns:
        What was removed.

    Raises:
        StoreError: a name leads out of the cache.
    """
    paths = [folder] if names is None else [inside(folder, name, f"cache {folder}") for name in names]
    removed = [remove_folder(path) for path in paths]
    return Usage(
        name=folder.name, num_files=sum(r.num_files for r in removed), num_bytes=sum(r.num_bytes for r in removed)
    )


_Chunk = tuple[int, range]
_jobs: tuple[Sequence[Job], Path] | None = None  # in worker processes, set when they start


def _in_processes(
    jobs: Sequence[Job], folder: Path, chunks: Sequence[_Chunk], workers: int
) -> Iterator[tuple[_Chunk, Filled]]:
    if workers <= 1:
        for chunk in chunks:
            yield chunk, _encode(jobs, folder, chunk)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of Prefect's threads
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(jobs, folder)) as pool:
        waiting: dict[Future[Filled], _Chunk] = {}
        queue = iter(chunks)
        try:
            while True:
                for chunk in queue:
                    waiting[pool.submit(_work, chunk)] = chunk
                    if len(waiting) >= 4 * workers:
                        break
                if not waiting:
                    return
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    yield waiting.pop(future), future.result()
        except BrokenProcessPool as error:
            raise StoreError(
                "distorting frames: expected its processes to finish, but one was ended from outside, "
                "perhaps for want of memory; start again: what is finished stays"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start(jobs: Sequence[Job], folder: Path) -> None:
    global _jobs
    _jobs = (jobs, folder)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    """End this worker when its parent was killed; nobody would take its results."""
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


def _work(chunk: _Chunk) -> Filled:
    assert _jobs is not None, "the pool's initializer ran"
    return _encode(*_jobs, chunk)


def _encode(jobs: Sequence[Job], folder: Path, chunk: _Chunk) -> Filled:
    """Encode the missing frames of a chunk, every source frame decoded once, and write them together."""
    number, indices = chunk
    dataset = jobs[number].dataset
    samples = [DistortedDataset(dataset, level, folder) for level in jobs[number].levels]
    filled, files = Filled(), []
    for index in indices:
        missing = [sample for sample in samples if sample.path(index) is None]
        if not missing:
            continue
        frames = dataset.clip(index) if any(sees_clips(sample.level) for sample in missing) else [dataset.frame(index)]
        for sample in missing:
            try:
                files.append(_file(sample, index, encode_clip(frames, sample.level)))
            except InputError as error:
                filled.failures[str(sample.level)] = f"frame {dataset.name(index)}: {error}"
    write_together(files)
    filled.num_written, filled.num_bytes = len(files), sum(len(content) for _, content in files)
    return filled


def _file(sample: DistortedDataset, index: int, data: bytes) -> tuple[Path, bytes]:
    path = sample.path_for(index, data)
    assert path is not None, "filling has a folder"
    return path, data


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
