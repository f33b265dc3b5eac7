"""Splits, and slices of them: ``train``, ``val[:50%]``, ``train[:200]``.

A slice by shares is cut between sequences where the names of frames tell which frames belong together, so that
neighbours of a video do not stand on both sides; a slice by numbers is cut where it says.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

from gearnn.datasets.frames import FrameDataset
from gearnn.errors import DataError

_SLICE = re.compile(r"(?P<name>[^\[\]]+)(\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")


@dataclass(frozen=True, kw_only=True)
class Split:
    """A split as a plan names it.

    Attributes:
        name: of the whole split in the dataset.
        start: first frame, ``20%`` or ``100``, from the end where negative; empty: the first of all.
        stop: the frame after the last one, likewise; empty: all that follow.

    >>> Split.parse("val[:50%]"), str(Split.parse("val[:50%]"))
    (Split(name='val', start='', stop='50%'), 'val[:50%]')
    """

    name: str
    start: str = ""
    stop: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a split from text.

        Raises:
            ValueError: it is none.
        """
        found = _SLICE.fullmatch(text.strip())
        if found is None:
            raise ValueError(
                f"expected a split, or a slice such as val[:50%], val[50%:] or train[:200], but got {text!r}"
            )
        split = cls(name=found["name"].strip(), start=found["start"] or "", stop=found["stop"] or "")
        for bound in (split.start, split.stop):
            if bound.endswith("%") and abs(int(bound[:-1])) > 100:
                raise ValueError(f"expected shares up to 100% in {text!r}")
        return split

    @property
    def is_whole(self) -> bool:
        """Whether it has all frames of the dataset's split."""
        return not self.start and not self.stop

    def __str__(self) -> str:
        return self.name if self.is_whole else f"{self.name}[{self.start}:{self.stop}]"


def sliced(dataset: FrameDataset, split: Split) -> FrameDataset:
    """The frames of a split, out of all of the dataset's split; see the module.

    Args:
        dataset: all frames of ``split.name``.
        split: which of them.

    Raises:
        DataError: it has none.
    """
    if split.is_whole:
        return dataset
    chosen: list[int] = []
    groups = [dataset.sequence(index) for index in range(len(dataset))]
    for stratum in _strata(dataset):
        sequences = [groups[index] for index in stratum]
        first = _position(split.start, sequences, 0)
        chosen += stratum[first : _position(split.stop, sequences, len(stratum))]
    if not chosen:
        number = len(set(groups))
        where = f" in {number} sequences, between which shares are cut" if 1 < number < len(dataset) else ""
        raise DataError(f"split {split}: expected frames, but it is empty; {split.name} has {len(dataset)}{where}")
    return cast(FrameDataset, Slice(dataset, chosen))


class Slice:
    """Some frames of a dataset.

    Nothing is handed on that is not named here: a method of the whole dataset would be given an index of the slice.

    Args:
        dataset: the frames.
        chosen: indices of some, in order.
    """

    def __init__(self, dataset: FrameDataset, chosen: Sequence[int]) -> None:
        self._whole, self._chosen = dataset, list(chosen)
        self.class_names, self.ignore_index = dataset.class_names, dataset.ignore_index

    def __len__(self) -> int:
        return len(self._chosen)

    def __getattr__(self, name: str) -> Any:
        """What only some datasets have: which kind of truth, and instances beside classes."""
        if name == "truth":
            return self._whole.truth  # type: ignore[attr-defined]
        if name == "instances":
            of_frame = self._whole.instances  # type: ignore[attr-defined]
            return lambda index: of_frame(self._chosen[index])
        raise AttributeError(f"a slice of {type(self.__dict__.get('_whole')).__name__} has no {name}")

    def name(self, index: int) -> str:
        return self._whole.name(self._chosen[index])

    def frame(self, index: int) -> Any:
        return self._whole.frame(self._chosen[index])

    def size(self, index: int) -> tuple[int, int]:
        return self._whole.size(self._chosen[index])

    def clip(self, index: int) -> Any:
        return self._whole.clip(self._chosen[index])

    def target(self, index: int) -> Any:
        return self._whole.target(self._chosen[index])

    def sequence(self, index: int) -> str:
        return self._whole.sequence(self._chosen[index])

    def frame_digest(self, index: int) -> str:
        return self._whole.frame_digest(self._chosen[index])

    def digest(self) -> str:
        """As for whole splits; it changes with every frame of the whole one."""
        return hashlib.sha256(f"{self._whole.digest()} {self._chosen}".encode()).hexdigest()


def _strata(dataset: FrameDataset) -> list[list[int]]:
    """Indices of frames that are sliced for themselves: of every class where a frame has one, else all."""
    if getattr(dataset, "truth", "") != "class":
        return [list(range(len(dataset)))]
    by_class: dict[Any, list[int]] = {}
    for index in range(len(dataset)):
        by_class.setdefault(dataset.target(index), []).append(index)
    return list(by_class.values())


def _position(bound: str, sequences: Sequence[str], default: int) -> int:
    """The index that a bound of a slice means; shares move to the nearest end of a sequence."""
    if not bound:
        return default
    number, is_share = int(bound.rstrip("%")), bound.endswith("%")
    if not is_share:
        return max(0, min(len(sequences), number + len(sequences) * (number < 0)))
    share = (number + 100 * (number < 0)) / 100
    wanted = share * len(sequences)
    ends = [0, *(i for i in range(1, len(sequences)) if sequences[i] != sequences[i - 1]), len(sequences)]
    if len(ends) == 2:  # one sequence, or names that do not tell
        return round(wanted)
    return min(ends, key=lambda end: (abs(end - wanted), end))
