"""Frames of several distortion levels, one drawn anew for every image (mixed training, section 4.2)."""

from collections import defaultdict
from collections.abc import Sequence

import torch

from gearnn.datasets.distorted import DistortedDataset
from gearnn.datasets.frames import Sample
from gearnn.errors import DataError


class Mixture:
    """The frames of one split at several levels, as :class:`gearnn.finetune_batches.Variants`.

    ``len`` counts frames, so that an epoch has as many steps as one of a single level. Every image's
    level is drawn uniformly. Where frames of different sizes cannot share a batch, every step draws one
    size first, with a probability that keeps each image's level uniform.

    Args:
        members: the same frames, once a level.
        mixed_sizes: whether a batch may hold frames of several sizes.

    Raises:
        DataError: no level, or levels with different numbers of frames.
    """

    def __init__(self, members: Sequence[DistortedDataset], *, mixed_sizes: bool) -> None:
        if not members or len({len(member) for member in members}) != 1:
            counts = [len(member) for member in members]
            raise DataError(f"mixed training: expected the same frames at one level or more, but got {counts} frames")
        self.members = list(members)
        self._groups: list[list[int]] = [list(range(len(members)))]
        if not mixed_sizes:
            by_size = defaultdict(list)
            for index, member in enumerate(members):
                by_size[member[0].image.size if len(member) else None].append(index)
            self._groups = list(by_size.values())

    def __len__(self) -> int:
        return len(self.members[0])

    def __getitem__(self, index: int) -> Sample:
        level, frame = divmod(index, len(self))
        return self.members[level][frame]

    def draw(self, frames: Sequence[int], generator: torch.Generator) -> list[int]:
        """Indices of one level of every frame of a batch; ``index // len(self)`` is the level."""
        anchor = int(torch.randint(len(self.members), (), generator=generator))
        group = next(group for group in self._groups if anchor in group)
        picks = torch.randint(len(group), (len(frames),), generator=generator).tolist()
        return [group[pick] * len(self) + frame for pick, frame in zip(picks, frames, strict=True)]
