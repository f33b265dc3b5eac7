"""One version for one identity, however many register it at the same time.

MLflow numbers versions by counting and has no condition on which a version is created. Processes of one
machine take turns by a lock; between machines the version that was created first stands, and whoever
finds an older one of the same identity beside its own takes its own back.
"""

from collections.abc import Callable

from gearnn.registry import runs
from gearnn.registry.names import TAG_LOGGED_MODEL
from gearnn.registry.versions import Version, find, get_version, numbers_of


def register_once(name: str, identity: str, register: Callable[[], Version]) -> Version:
    """The version of an identity: the one that exists, else what ``register`` creates.

    Args:
        name: of the registered model.
        identity: sha256 of what the version is made from.
        register: logs and creates the version; called only where there is none.
    """
    with runs.taking_turns(name):
        return find(name, identity) or _settled(register(), identity)


def _settled(mine: Version, identity: str) -> Version:
    """The version that stands; one that came second is taken back."""
    first = str(numbers_of(mine.name, identity)[0])
    if first == mine.version:
        return mine
    server = runs.client()
    server.delete_model_version(mine.name, mine.version)
    server.delete_logged_model(mine.tags[TAG_LOGGED_MODEL])
    return get_version(mine.name, first)
