"""What every way of holding gears can do."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Literal, Protocol

from torch import Tensor, nn

from gearnn.levels import DistortionLevel

Hold = Literal["views", "in_place"]
"""``views``: a network a level, sharing the base's tensors; ``in_place``: one network, into which values are copied."""


class Gears(Protocol):
    """Networks of several levels beside one base; the pristine level is the base's own values."""

    def at(self, level: DistortionLevel | None) -> AbstractContextManager[nn.Module]:
        """The network of a level while a context is open; None stands for the base."""
        ...

    def mixed(self, levels: Sequence[DistortionLevel | None]) -> nn.Module:
        """A network for a batch whose frames have these levels, in their order; GearError where that is refused."""
        ...

    def refuse_mixed(self, reason: str) -> None:
        """Refuse batches of several levels from now on."""
        ...

    def networks(self) -> Sequence[nn.Module]:
        """Every network that runs, the base's among them."""
        ...

    def shared_tensors(self) -> Sequence[Tensor]:
        """Tensors that are kept for all levels, besides those of the networks."""
        ...

    def own_tensors(self, level: DistortionLevel) -> Sequence[Tensor]:
        """Tensors that are kept for this level alone."""
        ...
