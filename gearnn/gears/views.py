"""Views: for every level a module tree that shares the base's tensors and owns only its adaptor's.

Switching is choosing an object, and threads may run different levels at once.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn

from gearnn.adaptor import Adaptor
from gearnn.gears.mixed import MixedBatches
from gearnn.layers import stored_tensors
from gearnn.levels import DistortionLevel


class Views:
    """A network a level.

    Args:
        base: stays as it is.
        adaptors: level -> adaptor, checked to be of this base.
        base_fingerprint: of the base.
        moving: names of tensors that forward passes change; every level has its own.
    """

    def __init__(
        self,
        base: nn.Module,
        adaptors: Mapping[DistortionLevel, Adaptor],
        base_fingerprint: str,
        moving: Collection[str] = (),
    ) -> None:
        self._base = base
        self._networks = {
            level: adaptor.apply(base, base_fingerprint, share_modules=True, apart=moving)
            for level, adaptor in adaptors.items()
        }
        self._mixed = MixedBatches(self.at)

    def network(self, level: DistortionLevel | None) -> nn.Module:
        """The network of a level."""
        return self._base if level is None else self._networks[level]

    def at(self, level: DistortionLevel | None) -> AbstractContextManager[nn.Module]:
        return nullcontext(self.network(level))

    def mixed(self, levels: Sequence[DistortionLevel | None]) -> nn.Module:
        return self.network(levels[0]) if len(set(levels)) == 1 else self._mixed.network(levels)

    def refuse_mixed(self, reason: str) -> None:
        self._mixed.refused = reason

    def networks(self) -> Sequence[nn.Module]:
        return [self._base, *self._networks.values()]

    def shared_tensors(self) -> Sequence[Tensor]:
        return []

    def own_tensors(self, level: DistortionLevel) -> Sequence[Tensor]:
        shared = {id(tensor) for tensor in stored_tensors(self._base).values()}
        own = {id(t): t for t in stored_tensors(self._networks[level]).values() if id(t) not in shared}
        return list(own.values())
