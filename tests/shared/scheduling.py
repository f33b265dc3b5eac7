"""The scheduler of pytest-xdist, given the units of ``tests.side_by_side``."""

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.side_by_side import unit


class Files(LoadScopeScheduling):
    """Gives every process unit after unit, in the order in which pytest has collected them."""

    def __init__(self, config: pytest.Config, log: Producer) -> None:
        config.option.loadscopereorder = False  # would begin with the units of most tests
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return unit(nodeid)
