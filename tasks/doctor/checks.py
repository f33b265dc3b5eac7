"""One line a check, each by itself: what is wrong with one thing keeps no other from being looked at."""

import contextvars
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from gearnn.errors import GearNNError

_LONGEST_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the doctor's.

    Attributes:
        mark: whether it works; ``warn`` where it does not do harm yet, or not to everybody.
        what: was looked at.
        found: and what to do about it.
        status: exit status that it asks for.
    """

    mark: Literal["ok", "warn", "fail"]
    what: str
    found: str
    status: int = 0


def attempt(what: str, check: Callable[[], Iterable[Check]], longest_s: float = _LONGEST_S) -> Iterator[Check]:
    """The lines of a check; and one more where it breaks off, or takes too long.

    Args:
        what: is looked at.
        check: gives lines, and raises where it cannot go on.
        longest_s: seconds for each line.
    """
    lines: queue.SimpleQueue[Check | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            for line in check():
                lines.put(line)
        except Exception as error:  # whatever is wrong with one thing, the others are looked at
            lines.put(failed(what, error))
        lines.put(None)

    threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=longest_s)
        except queue.Empty:
            yield Check(
                mark="fail", what=what, found=f"expected an answer within {longest_s:.0f} s, but got none", status=1
            )
            return
        if line is None:
            return
        yield line


def failed(what: str, error: BaseException) -> Check:
    """The line of an error."""
    from gearnn.registry.servers import one_line

    told = str(error) if isinstance(error, GearNNError) else f"{type(error).__name__}: {one_line(error)}"
    return Check(mark="fail", what=what, found=told, status=getattr(error, "exit_status", 1))
