"""Whether splits share frames: the same ones, all but the same ones, or frames of one sequence.

Frames all but the same are found by perceptual hashes (Zauner 2010) of 256 bits: those that differ in at most 64.
Two frames of one scene a moment apart do, and so do copies that were scaled or compressed; frames of other scenes
differ in about 128, and of other scenes on the same road in 74 or more, which was measured on CamVid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from gearnn.datasets.frames import FrameDataset

_SIDE = 16
_NEAR = _SIDE**2 // 4
_FLAT = 2.0  # standard deviation of grey values
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """What two splits have in common.

    Attributes:
        first: name of one split.
        second: of the other one.
        same: (frame of the first, frame of the second) of the same content.
        near: likewise, all but the same; for every frame of the second the nearest one.
        sequences: that have frames in both.
        num_frames: frames of the first, and of the second, in these sequences.
    """

    first: str
    second: str
    same: tuple[tuple[str, str], ...] = ()
    near: tuple[tuple[str, str], ...] = ()
    sequences: tuple[str, ...] = ()
    num_frames: tuple[int, int] = (0, 0)

    def __bool__(self) -> bool:
        return bool(self.same or self.near or self.sequences)

    def __str__(self) -> str:
        """In words, such as ``val shares the sequence 0016E5 with train (101 and 204 frames)``."""
        parts = []
        if self.same:
            same = _frames(len(self.same))
            parts.append(f"{self.second} and {self.first} have {same} in common: {_pairs(self.same)}")
        if self.near:
            near = _frames(len(self.near))
            parts.append(f"{self.second} has {near} all but the same as in {self.first}: {_pairs(self.near)}")
        if self.sequences:
            which = f"the sequence{'s' * (len(self.sequences) > 1)} {_first(self.sequences)}"
            one, other = self.num_frames
            parts.append(f"{self.second} shares {which} with {self.first} ({other} and {_frames(one)})")
        return "; ".join(parts)


class Seen:
    """The frames of one split, for comparison with another.

    Args:
        dataset: the split.
    """

    def __init__(self, dataset: FrameDataset) -> None:
        indices = range(len(dataset))
        self.names = [dataset.name(index) for index in indices]
        self.digests = [dataset.frame_digest(index) for index in indices]
        self.sequences = [dataset.sequence(index) for index in indices]
        self.hashes = np.stack([_hash(dataset, index) for index in indices])
        self.is_flat = np.array([not bits.any() for bits in self.hashes])


def overlaps(splits: Mapping[str, Seen]) -> list[Overlap]:
    """What every two of some splits have in common; nothing of those that have nothing."""
    names = {sequence for seen in splits.values() for sequence in seen.sequences}
    pairs = combinations(splits.items(), 2)
    found = [
        _compared(one, ours, other, theirs, told=len(names) > 1 or one.partition("[")[0] == other.partition("[")[0])
        for (one, ours), (other, theirs) in pairs
    ]
    return [overlap for overlap in found if overlap]


def _compared(one: str, ours: Seen, other: str, theirs: Seen, *, told: bool) -> Overlap:
    """Of two splits; ``told`` is whether names tell sequences, which they do not where all begin alike."""
    by_digest = dict(zip(ours.digests, ours.names, strict=True))
    pairs = zip(theirs.digests, theirs.names, strict=True)
    same = {name: by_digest[digest] for digest, name in pairs if digest in by_digest}
    shared = set(ours.sequences) & set(theirs.sequences) if told else set()
    return Overlap(
        first=one,
        second=other,
        same=tuple((known, name) for name, known in same.items()),
        near=tuple((ours.names[i], theirs.names[j]) for i, j in _near(ours, theirs) if theirs.names[j] not in same),
        sequences=tuple(sorted(shared)),
        num_frames=(_count(ours.sequences, shared), _count(theirs.sequences, shared)),
    )


def _near(ours: Seen, theirs: Seen) -> list[tuple[int, int]]:
    """(index of ours, index of theirs) of the nearest frames that are near."""
    found = []
    for j, own in enumerate(theirs.hashes):
        if theirs.is_flat[j]:
            continue
        distances = np.where(ours.is_flat, _SIDE**2, (ours.hashes != own).sum(axis=1))
        i = int(distances.argmin())
        if distances[i] <= _NEAR:
            found.append((i, j))
    return found


def _count(sequences: Sequence[str], wanted: set[str]) -> int:
    return sum(name in wanted for name in sequences)


def _hash(dataset: FrameDataset, index: int) -> np.ndarray:
    """bool [256]; all False for a frame of next to one colour, such as a black one, of which a hash says nothing."""
    import imagehash  # only where splits are compared: it brings scipy

    if np.asarray(dataset.frame(index).convert("L")).std() < _FLAT:
        return np.zeros(_SIDE**2, dtype=bool)
    return np.asarray(imagehash.phash(dataset.frame(index), hash_size=_SIDE).hash, dtype=bool).ravel()


def _frames(number: int) -> str:
    return f"{number} frame{'s' * (number != 1)}"


def _pairs(pairs: Sequence[tuple[str, str]]) -> str:
    return _first([one if one == other else f"{one} and {other}" for one, other in pairs])


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (" ..." if len(names) > _SHOWN else "")
