"""A DASH client without a screen: fetches one segment after another, each in a representation that is chosen."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from gearnn.distortions import Received
from gearnn.errors import StreamError
from gearnn.store.addresses import check_reachable
from gearnn.streams.dash import Piece, Presentation, Representation
from gearnn.streams.fetch import Fetched, Fetcher
from gearnn.streams.segment import Segment

_MOST_FAILURES = 5  # of a live manifest in a row


class Choose(Protocol):
    """Chooses the representation of the next segment."""

    def __call__(self, representations: Sequence[Representation], throughputs: Sequence[float]) -> Representation:
        """One of them, which come by bandwidth; throughputs of past segments in kbit/s, newest last."""
        ...


class RateBased:
    """The best representation that fits into a share of the harmonic mean of recent throughputs.

    Args:
        safety: that share.
        window: segments that count as recent.
    """

    def __init__(self, *, safety: float = 0.8, window: int = 3) -> None:
        self.safety, self.window = safety, window

    def __call__(self, representations: Sequence[Representation], throughputs: Sequence[float]) -> Representation:
        """See :class:`Choose`; the least before anything is known."""
        recent = [t for t in list(throughputs)[-self.window :] if t > 0]
        if not recent:
            return representations[0]
        expected = self.safety * len(recent) / sum(1.0 / t for t in recent)
        return next((r for r in reversed(representations) if r.bandwidth <= expected), representations[0])


def play(
    presentation: Presentation, choose: Choose, *, live_seconds: float | None = None, fetcher: Fetcher | None = None
) -> Iterator[Segment]:
    """Every segment of a presentation, in order; one that cannot be fetched is reported as lost.

    Args:
        presentation: the manifest.
        choose: the representation of every segment.
        live_seconds: when to stop following a live manifest; None follows it to its end.
        fetcher: that fetches segments.
    """
    fetcher = fetcher or Fetcher()
    throughputs: deque[float] = deque(maxlen=100)
    started, seen, number = time.monotonic(), float("-inf"), 0
    initials: dict[tuple[str, str], bytes] = {}
    while True:
        for representations, index in _places(presentation, after=seen):
            chosen = choose(representations, throughputs)
            piece = replace(chosen.pieces[index], number=number)  # a live manifest forgets segments and counts anew
            seen, number = piece.start, number + 1
            yield _fetch(chosen, piece, presentation.source, fetcher, initials, throughputs)
        if presentation.refresh is None or (live_seconds is not None and time.monotonic() - started >= live_seconds):
            return
        presentation = _refreshed(presentation, presentation.refresh, fetcher)


def _refreshed(presentation: Presentation, seconds: float, fetcher: Fetcher) -> Presentation:
    """A live manifest some time later; one that cannot be read, as while it is being replaced, is tried again.

    Raises:
        StreamError: it could not be read several times in a row.
    """
    for _ in range(_MOST_FAILURES):
        time.sleep(seconds)
        try:
            return Presentation.open(presentation.source, fetcher)
        except StreamError as error:
            reason = error
    raise reason


def _places(presentation: Presentation, *, after: float) -> Iterator[tuple[Sequence[Representation], int]]:
    """(representations that have it, index of the piece) of every segment that starts later than some time."""
    for period in presentation.periods:
        for index in range(max((len(r.pieces) for r in period.representations), default=0)):
            having = [r for r in period.representations if index < len(r.pieces)]
            if having[0].pieces[index].start > after:
                yield having, index


def _fetch(
    chosen: Representation,
    piece: Piece,
    manifest: str,
    fetcher: Fetcher,
    initials: dict[tuple[str, str], bytes],
    throughputs: deque[float],
) -> Segment:
    key = (piece.initial, piece.initial_bytes)
    try:
        for address in filter(None, (piece.initial, piece.address)):
            check_reachable(address, manifest)
        if piece.initial and key not in initials:
            initials[key] = fetcher.get(*key).data
        fetched: Fetched | None = fetcher.get(piece.address, piece.bytes)
    except StreamError as error:
        fetched, reason = None, str(error)
    if fetched is not None:
        throughputs.append(fetched.throughput)
    return Segment(
        name=f"{piece.number:05d}",
        start=piece.start,
        received=None if fetched is None else Received(initials.get(key, b"") + fetched.data),
        lost="" if fetched is not None else reason,
        representation=chosen.id,
        bandwidth=chosen.bandwidth,
        throughput=0.0 if fetched is None else fetched.throughput,
    )
