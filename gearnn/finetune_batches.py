"""Training frames in batches: the order of an epoch, mirroring, and reading ahead in other processes."""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Protocol, runtime_checkable

import torch
from torch.utils.data import DataLoader, Dataset

from gearnn.datasets.frames import Sample
from gearnn.problems.problem import Problem
from gearnn.recipe import Recipe


class Samples(Protocol):
    """Training frames with their truth, such as :class:`gearnn.datasets.DistortedDataset`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


@runtime_checkable
class Variants(Samples, Protocol):
    """Training frames of which each exists in several variants, such as one a distortion level."""

    def draw(self, frames: Sequence[int], generator: torch.Generator) -> list[int]:
        """Indices of one variant of every frame of a batch."""
        ...


def reading_ahead(num_workers: int) -> dict[str, Any]:
    """Arguments of a DataLoader; its workers are started afresh, because forking a process with threads is unsafe."""
    return {"num_workers": num_workers, "multiprocessing_context": "spawn" if num_workers else None}


class _Augmented(Dataset[Sample]):
    """Samples by (index, mirrored), so that every choice is made outside of worker processes."""

    def __init__(self, samples: Samples, problem: Problem) -> None:
        self.samples, self.problem = samples, problem

    def __getitem__(self, choice: tuple[int, bool]) -> Sample:
        index, mirrored = choice
        sample = self.samples[index]
        return self.problem.flip(sample) if mirrored else sample


def batches_of(samples: Samples, problem: Problem, recipe: Recipe, epoch: int) -> Iterator[Any]:
    """Batches of one epoch; order and flips depend on seed and epoch only, not on earlier epochs."""
    seed = hashlib.sha256(f"{recipe.seed} {epoch}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(seed[:6], "big"))
    order = torch.randperm(len(samples), generator=generator).tolist()
    mirrored = (torch.rand(len(samples), generator=generator) < recipe.flip).tolist()
    size = recipe.batch_size
    batches = [order[i : i + size] for i in range(0, len(order), size)]
    if isinstance(samples, Variants):  # drawn last, so that frames, order and flips are those of every other fine-tune
        batches = [samples.draw(batch, generator) for batch in batches]
    choices = list(zip(chain.from_iterable(batches), mirrored, strict=True))
    return iter(
        DataLoader(
            _Augmented(samples, problem),
            batch_sampler=[choices[i : i + size] for i in range(0, len(choices), size)],
            collate_fn=problem.collate,
            **reading_ahead(recipe.num_workers),
            generator=generator,
        )
    )
