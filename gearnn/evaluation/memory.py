"""What each solution keeps in memory: Table 1, and what really lies there."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gearnn.evaluation import solutions
from gearnn.layers import model_size
from gearnn.levels import DistortionLevel


@dataclass(frozen=True, kw_only=True)
class Memory:
    """One row of Table 1.

    Attributes:
        solution: as in :mod:`gearnn.evaluation.solutions`.
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
        """Nominal overhead over the base alone, in percent."""
        return 100.0 * (self.nominal / self.model_size - 1.0)


def nominal_values(solution: str, model_size: int, bound: int, num_levels: int) -> int:
    """Values that Table 1 charges a solution.

    Args:
        solution: as in :mod:`gearnn.evaluation.solutions`.
        model_size: values of the base.
        bound: M, in values.
        num_levels: distorted levels; at the pristine one the base runs.

    >>> nominal_values("adaptor", 15_907_139, 31_814, 9), nominal_values("full fine-tune", 15_907_139, 31_814, 9)
    (16193465, 159071390)
    """
    if solution == solutions.FULL:
        return model_size * (num_levels + 1)
    return model_size + (bound * num_levels if solution in solutions.PER_LEVEL else 0)


def resident_bytes(networks: Sequence[nn.Module]) -> int:
    """Bytes of all tensors of some networks; a tensor that several of them share counts once.

    >>> base = nn.Linear(10, 10)
    >>> resident_bytes([base]), resident_bytes([base, base])
    (440, 440)
    """
    tensors = (t for network in networks for t in (*network.parameters(), *network.buffers()))
    return sum(storage_bytes(tensors).values())


def storage_bytes(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Address -> bytes of every distinct piece of memory under some tensors."""
    storages: dict[int, int] = {}
    for tensor in tensors:
        storage: torch.UntypedStorage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return storages


@dataclass(frozen=True, kw_only=True)
class Held:
    """What a running gearbox keeps for the base, for one level, for what its levels share, or in all.

    Attributes:
        name: ``base``, a level, ``shared`` or ``in all``.
        values: floating-point values.
        resident: bytes of tensors; a tensor that several networks share counts once.
        disk: bytes of the file; None where there is none.
    """

    name: str
    values: int
    resident: int
    disk: int | None


def held_by(
    base: nn.Module,
    own: Mapping[DistortionLevel, Sequence[Tensor]],
    values: Mapping[DistortionLevel, int],
    disk: Mapping[DistortionLevel | None, int | None],
    kept: Sequence[Tensor],
) -> list[Held]:
    """What a gearbox keeps, measured on its tensors.

    Args:
        base: the base.
        own: level -> tensors that are kept for it alone.
        values: level -> values of its adaptor.
        disk: level -> bytes of its adaptor's file; None -> those of the base's.
        kept: every tensor of the networks that run, and of what their levels share.
    """
    rows = [Held(name="base", values=model_size(base), resident=resident_bytes([base]), disk=disk.get(None))]
    for level, tensors in own.items():
        size = sum(storage_bytes(tensors).values())
        rows.append(Held(name=str(level), values=values[level], resident=size, disk=disk.get(level)))
    all_bytes = sum((storage_bytes(kept) | storage_bytes(t for tensors in own.values() for t in tensors)).values())
    shared = all_bytes - sum(row.resident for row in rows)
    if shared:
        rows.append(
            Held(name="shared", values=shared // next(base.parameters()).element_size(), resident=shared, disk=None)
        )
    known = [row.disk for row in rows if row.disk is not None]
    total = sum(row.values for row in rows)
    return [*rows, Held(name="in all", values=total, resident=all_bytes, disk=sum(known) if known else None)]


def memory_cells(rows: Sequence[Held]) -> list[tuple[str, ...]]:
    """What a gearbox keeps as a table, headings first; shares are of the base's bytes."""
    base = rows[0].resident
    return [
        ("", "values", "bytes resident", "share", "bytes on disk"),
        *(
            (
                row.name,
                f"{row.values:,}",
                f"{row.resident:,}",
                f"{100 * row.resident / base:.2f} %",
                "" if row.disk is None else f"{row.disk:,}",
            )
            for row in rows
        ),
    ]


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
        nominal = values if solution in (solutions.BATCHNORM, solutions.REESTIMATED) else None
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
