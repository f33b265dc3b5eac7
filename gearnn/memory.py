"""What each solution keeps in memory: Table 1, and what really lies there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from gearnn import vocabulary as words


@dataclass(frozen=True, kw_only=True)
class Memory:
    """One row of Table 1.

    Attributes:
        solution: as in section 4.2.
        nominal: floating-point values as the paper counts them: every adaptor is as large as its bound.
        values: floating-point values really kept.
        disk: bytes of the files.
        resident: bytes of the tensors once loaded, shared ones counted once.
        model_size: values of the base.
    """

    solution: str
    nominal: int
    values: int
    disk: int
    resident: int
    model_size: int

    @property
    def overhead(self) -> float:
        """Nominal overhead over the original DNN, in percent."""
        return 100.0 * (self.nominal / self.model_size - 1.0)


def nominal_values(solution: str, model_size: int, bound: int, num_levels: int) -> int:
    """Values that Table 1 charges a solution.

    Args:
        solution: as in section 4.2.
        model_size: values of the base.
        bound: M, in values.
        num_levels: distorted levels; at the pristine one the base runs.

    >>> nominal_values("GearNN", 15_907_139, 31_814, 9), nominal_values("DNN switching", 15_907_139, 31_814, 9)
    (16193465, 159071390)
    """
    if solution == words.SWITCHING:
        return model_size * (num_levels + 1)
    return model_size + (bound * num_levels if solution in words.PER_LEVEL else 0)


def resident_bytes(networks: Sequence[nn.Module]) -> int:
    """Bytes of all tensors of some networks; a tensor that several of them share counts once.

    >>> base = nn.Linear(10, 10)
    >>> resident_bytes([base]), resident_bytes([base, base])
    (440, 440)
    """
    storages: dict[int, int] = {}
    for network in networks:
        for tensor in (*network.parameters(), *network.buffers()):
            storage: torch.UntypedStorage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def memory_table(
    model_size: int, bound: int, num_levels: int, kept: Mapping[str, tuple[int, int, int]]
) -> list[Memory]:
    """Table 1, one row a solution of ``kept``.

    Args:
        model_size: values of the base.
        bound: M, in values.
        num_levels: distorted levels.
        kept: solution -> (values, bytes on disk, bytes resident) that it really has, the base included.
    """
    rows = []
    for solution, (values, disk, resident) in kept.items():
        nominal = values if solution in (words.BATCHNORM, words.REESTIMATED) else None
        rows.append(
            Memory(
                solution=solution,
                nominal=nominal_values(solution, model_size, bound, num_levels) if nominal is None else nominal,
                values=values,
                disk=disk,
                resident=resident,
                model_size=model_size,
            )
        )
    return rows
