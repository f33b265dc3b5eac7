"""DASH manifests (ISO/IEC 23009-1), parsed by mpegdash, as lists of segments for every representation.

Addressed by SegmentTemplate (numbers or a timeline), SegmentList, or one file a representation. A
manifest that indexes byte ranges of one file (SegmentBase with an index) is reported as unsupported.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gearnn.errors import StreamError
from gearnn.store.addresses import joined, scheme_of, shown
from gearnn.streams.fetch import Fetcher

_MOST_BYTES = 1 << 26  # of a manifest
_MOST_PIECES = 200_000  # of a manifest: five qualities for 22 hours in segments of two seconds
_MOST_DIGITS = 20
_USUAL_PAUSE, _LONGEST_PAUSE = 2.0, 60.0  # seconds between two looks at a live manifest
_DURATION = re.compile(r"P(?:0+Y)?(?:0+M)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+\.?\d*)S)?)?$")
_FIELD = re.compile(r"\$(RepresentationID|Number|Time|Bandwidth)(?:%0(\d+)d)?\$|\$\$")


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One segment of one representation.

    Attributes:
        number: of the segment, the same in every representation.
        start: seconds of the presentation.
        address: of its bytes.
        initial: address of what comes before them, if anything.
        bytes: range of the file, ``first-last``; empty for all of it.
        initial_bytes: range of the initialisation.
    """

    number: int
    start: float
    address: str
    initial: str = ""
    bytes: str = ""
    initial_bytes: str = ""


@dataclass(frozen=True, kw_only=True)
class Representation:
    """One quality of the video.

    Attributes:
        id: its name in the manifest.
        bandwidth: that it needs, in kbit/s.
        pieces: its segments, in order.
    """

    id: str
    bandwidth: float
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, kw_only=True)
class Period:
    """Part of a presentation in which the representations stay the same; those of video, by bandwidth."""

    representations: tuple[Representation, ...]


@dataclass(frozen=True, kw_only=True)
class Presentation:
    """A manifest.

    Attributes:
        source: path or address of the manifest.
        periods: in order.
        refresh: seconds after which a live manifest is read again; None for a whole one.
    """

    source: str
    periods: tuple[Period, ...]
    refresh: float | None

    @classmethod
    def open(cls, source: str, fetcher: Fetcher | None = None, now: datetime | None = None) -> "Presentation":
        """Fetch and read a manifest.

        Args:
            source: a path or an address over HTTP.
            fetcher: that fetches it.
            now: time by which segments of a live manifest without a timeline have been written.

        Raises:
            StreamError: it cannot be fetched or read, or holds no video.
        """
        source = source if scheme_of(source) else Path(source).absolute().as_uri()
        text = (fetcher or Fetcher()).get(source, most=_MOST_BYTES).data.decode("utf-8", "replace")
        manifest = _parsed(text, source)
        is_live = manifest.type == "dynamic"
        refresh = _seconds(manifest.minimum_update_period or "PT0S", source)
        reader = _Reader(source, _joined(source, manifest.base_urls), manifest, now or datetime.now(UTC), is_live)
        try:
            periods = tuple(reader.periods())
        except (
            TypeError,
            ValueError,
            ArithmeticError,
            LookupError,
        ) as error:  # an attribute that is missing or impossible
            raise _no_manifest(source, error) from error
        if not is_live and not any(r.pieces for period in periods for r in period.representations):
            raise StreamError(f"{shown(source)}: expected a manifest with segments of video, but it has none")
        pause = min(refresh, _LONGEST_PAUSE) or _USUAL_PAUSE
        return cls(source=source, periods=periods, refresh=pause if is_live else None)


class _Reader:
    """Turns one manifest's nodes into periods."""

    def __init__(self, source: str, base: str, manifest: Any, now: datetime, is_live: bool) -> None:
        self._source, self._base, self._manifest = source, base, manifest
        self._now, self._is_live = now, is_live
        self._left = _MOST_PIECES

    def periods(self) -> Iterator[Period]:
        start, number = 0.0, 0
        nodes = self._manifest.periods or []
        for index, node in enumerate(nodes):
            start = _seconds(node.start, self._source) if node.start else start
            length = self._length(nodes, index, start)
            found = [
                self._representation(node, group, representation, start, length)
                for group in _of_video(node.adaptation_sets or [])
                for representation in group.representations or []
            ]
            whole = [_counted(r, number) for r in found]
            number += max((len(r.pieces) for r in whole), default=0)
            yield Period(representations=tuple(sorted(whole, key=lambda r: r.bandwidth)))
            start += length or 0.0

    def _length(self, nodes: Sequence[Any], index: int, start: float) -> float | None:
        """Seconds of a period; None where nothing says."""
        if nodes[index].duration:
            return _seconds(nodes[index].duration, self._source)
        if index + 1 < len(nodes) and nodes[index + 1].start:
            return _seconds(nodes[index + 1].start, self._source) - start
        whole = self._manifest.media_presentation_duration
        if whole:
            return _seconds(whole, self._source) - start
        return None

    def _representation(self, period: Any, group: Any, node: Any, start: float, length: float | None) -> Representation:
        base = _joined(_joined(_joined(self._base, period.base_urls), group.base_urls), node.base_urls)
        levels = (node, group, period)  # what is nearer to the representation counts
        template = _inherited([level.segment_templates[0] for level in levels if level.segment_templates])
        listed = _inherited([level.segment_lists[0] for level in levels if level.segment_lists])
        indexed = next((level.segment_bases[0] for level in levels if level.segment_bases), None)
        if template is not None:
            pieces = list(self._by_template(template, node, base, start, length))
        elif listed is not None:
            pieces = list(self._by_list(listed, base, start))
        elif indexed is not None and indexed.index_range:
            raise StreamError(
                f"{shown(self._source)}: expected SegmentTemplate, SegmentList or one file, "
                f"but representation {node.id} is indexed by byte ranges (SegmentBase), which is not supported"
            )
        else:
            pieces = [Piece(number=0, start=start, address=base)]
        self._left -= len(pieces)
        return Representation(id=str(node.id), bandwidth=(node.bandwidth or 0) / 1000.0, pieces=tuple(pieces))

    def _by_template(self, template: Any, node: Any, base: str, start: float, length: float | None) -> Iterator[Piece]:
        scale, offset = template.timescale or 1, template.presentation_time_offset or 0
        first = 1 if template.start_number is None else template.start_number
        facts = {"RepresentationID": node.id, "Bandwidth": node.bandwidth}
        initial = joined(base, _filled(template.initialization, facts)) if template.initialization else ""
        for count, (index, time) in enumerate(self._times(template, scale, offset, start, length)):
            self._check_number(count + 1)
            number = first + index
            media = _filled(template.media, facts | {"Number": number, "Time": time})
            yield Piece(
                number=number, start=start + (time - offset) / scale, address=joined(base, media), initial=initial
            )

    def _times(
        self, template: Any, scale: int, offset: int, start: float, length: float | None
    ) -> Iterator[tuple[int, int]]:
        """(index, start in units of the timescale) of every segment."""
        if template.segment_timelines:
            end = None if length is None else round(length * scale) + offset
            yield from enumerate(self._timeline(template.segment_timelines[0].Ss or [], end))
            return
        if not template.duration:
            raise StreamError(f"{shown(self._source)}: expected a SegmentTemplate with a duration or a timeline")
        for index in self._written(template.duration / scale, start, length):
            yield index, offset + index * template.duration

    def _timeline(self, entries: Sequence[Any], end: int | None) -> Iterator[int]:
        time = 0
        for entry, following in zip_longest(entries, entries[1:]):
            time = entry.t if entry.t is not None else time
            repeats = entry.r or 0
            if repeats < 0:  # up to the next entry, or the end of the period
                until = end if following is None or following.t is None else following.t
                if until is None:
                    raise StreamError(f"{shown(self._source)}: expected a period that says its duration, for r=-1")
                repeats = max(0, -((time - until) // entry.d) - 1)
            self._check_number(repeats + 1)
            for _ in range(repeats + 1):
                yield time
                time += entry.d

    def _written(self, each: float, start: float, length: float | None) -> range:
        """Segments of equal length: those of the period, of a live one those written by now and kept still."""
        first, written = 0.0, float("inf")
        if self._is_live and self._manifest.availability_start_time:
            began = datetime.fromisoformat(self._manifest.availability_start_time.replace("Z", "+00:00"))
            began = began if began.tzinfo else began.replace(tzinfo=UTC)
            written = ((self._now - began).total_seconds() - start) // each
            if self._manifest.time_shift_buffer_depth:
                first = max(0.0, written - _seconds(self._manifest.time_shift_buffer_depth, self._source) // each)
        whole = float("inf") if length is None else -(-(length - 1e-6) // each)
        if min(written, whole) == float("inf"):
            raise StreamError(f"{shown(self._source)}: expected a period that says its duration")
        last = max(0, int(min(written, whole)))
        self._check_number(last - int(first))
        return range(int(first), last)

    def _check_number(self, segments: int) -> None:
        if segments > self._left:
            raise StreamError(f"{shown(self._source)}: expected at most {_MOST_PIECES:,} segments, but it names more")

    def _by_list(self, listed: Any, base: str, start: float) -> Iterator[Piece]:
        each = (listed.duration or 0) / (listed.timescale or 1)
        first = (listed.initializations or [None])[0]
        for index, node in enumerate(listed.segment_urls or []):
            yield Piece(
                number=index,
                start=start + index * each,
                address=joined(base, node.media) if node.media else base,
                initial="" if first is None else (joined(base, first.source_url) if first.source_url else base),
                bytes=node.media_range or "",
                initial_bytes="" if first is None else (first.range or ""),
            )


def _counted(representation: Representation, first: int) -> Representation:
    """The same with its segments numbered from ``first`` on, because every period starts its own numbers anew."""
    pieces = tuple(replace(piece, number=first + index) for index, piece in enumerate(representation.pieces))
    return replace(representation, pieces=pieces)


def _inherited(nodes: Sequence[Any]) -> Any:
    """One node with the attributes of several, the nearest first; None where there is none (5.3.9.1)."""
    if not nodes:
        return None
    found = dict.fromkeys(vars(nodes[0]))
    for node in reversed(nodes):
        found |= {name: value for name, value in vars(node).items() if value not in (None, [])}
    return SimpleNamespace(**found)


def _parsed(text: str, source: str) -> Any:
    if "<MPD" not in text:
        raise StreamError(f"{shown(source)}: expected a DASH manifest, but got {text[:40]!r}")
    from mpegdash.parser import MPEGDASHParser

    try:
        return MPEGDASHParser.parse(text)
    except Exception as error:  # expat's and the parser's own
        raise _no_manifest(source, error) from error


def _no_manifest(source: str, error: Exception) -> StreamError:
    return StreamError(f"{shown(source)}: expected a DASH manifest: {' '.join(str(error).split())[:200]}")


def _of_video(groups: Sequence[Any]) -> list[Any]:
    """Adaptation sets of video, or of images where there are none; without those for players' tricks.

    Some writers, FFmpeg among them, put every quality into a set of its own.
    """
    plain = [group for group in groups if not group.essential_properties]
    return [g for g in plain if _holds(g, "video")] or [g for g in plain if _holds(g, "image")]


def _holds(group: Any, kind: str) -> bool:
    names = [group.content_type, group.mime_type, *(r.mime_type for r in group.representations or [])]
    return any(name and name.startswith(kind) for name in names)


def _joined(base: str, nodes: Sequence[Any] | None) -> str:
    return joined(base, nodes[0].base_url_value.strip()) if nodes and nodes[0].base_url_value else base


def _filled(template: str, facts: dict[str, Any]) -> str:
    """An address from its template.

    >>> _filled("$RepresentationID$/$Number%05d$.ts", {"RepresentationID": "low", "Number": 7})
    'low/00007.ts'
    """

    def value(match: re.Match[str]) -> str:
        if match[1] is None:
            return "$"
        found = facts[match[1]]
        if len(match[2] or "") > 2 or int(match[2] or 0) > _MOST_DIGITS:
            raise ValueError(f"expected at most {_MOST_DIGITS} digits of a number, but got {match[0]:.20}")
        return f"{int(found):0{match[2]}d}" if match[2] else str(found)

    return _FIELD.sub(value, template)


def _seconds(text: str | None, source: str) -> float:
    """An ISO 8601 duration.

    >>> _seconds("PT1H2M3.5S", "")
    3723.5
    """
    found = _DURATION.match(text or "")
    if text is None or found is None:
        raise StreamError(f"{shown(source)}: expected a duration such as PT4.5S, but got {text!r}")
    return sum(float(part or 0) * unit for part, unit in zip(found.groups(), (86400, 3600, 60, 1), strict=True))
