"""What every solution of a benchmark keeps in memory and on disk (Table 1)."""

from collections.abc import Sequence

from gearnn.adaptor import Adaptor
from gearnn.evaluation import solutions
from gearnn.evaluation.memory import Memory, memory_table, resident_bytes
from gearnn.plan.opened import Opened
from tasks.records import AdaptorFile, Base, Entrant, Measured, Network


def measure_memory(opened: Opened, base: Base, measured: Sequence[Measured]) -> list[Memory]:
    """One row a solution that was trained for every level; of the first seed, and of one setting of each."""
    plan, network = opened.plan, opened.network(base.weights)
    levels = [str(level) for level in plan.distortion_levels]
    loaded = resident_bytes([network])
    kept: dict[str, tuple[int, int, int]] = {}
    for solution in solutions.BENCHMARKED:
        entrants = _entrants(measured, solution)
        networks = [e.network for e in entrants if e.network is not None]
        adaptors = {e.trained: e.adaptor for e in entrants if e.adaptor is not None}
        if solution in solutions.PER_LEVEL and set(levels) <= adaptors.keys():
            files = [adaptors[level] for level in levels]
            kept[solution] = (
                base.num_values + sum(file.num_values for file in files),
                base.weights.size + sum(file.file.size for file in files),
                _resident(opened, base, files),
            )
        elif solution == solutions.FULL and len(networks) >= len(levels):
            number = len(levels) + 1
            disk = base.weights.size + sum(n.weights.size for n in _of_levels(networks, levels))
            kept[solution] = (base.num_values * number, disk, loaded * number)
        elif solution == solutions.BASE or (networks and solution not in solutions.PER_LEVEL):
            weights = networks[0].weights if networks else base.weights
            kept[solution] = (base.num_values, weights.size, loaded)
    return memory_table(base.num_values, plan.bound.in_values(base.num_values), len(levels), kept)


def _entrants(measured: Sequence[Measured], solution: str) -> list[Entrant]:
    """Of the first seed, without adaptors under other bounds."""
    found = [m.entrant for m in measured if m.entrant.solution == solution and not m.entrant.failure]
    found = [e for e in found if not (solution == solutions.ADAPTOR and e.setting)]
    return [e for e in found if e.seed == found[0].seed]


def _of_levels(networks: Sequence[Network], levels: Sequence[str]) -> list[Network]:
    by_level = {network.level: network for network in networks}
    return [by_level[level] for level in levels]


def _resident(opened: Opened, base: Base, files: Sequence[AdaptorFile]) -> int:
    """Bytes of one base and all adaptors as a gearbox holds them."""
    network = opened.network(base.weights)
    adaptors = [Adaptor.load(opened.store.get(file.file)) for file in files]
    return resident_bytes([network, *(adaptor.apply(network, base.fingerprint) for adaptor in adaptors)])
