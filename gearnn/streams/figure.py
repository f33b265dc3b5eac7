"""A session over time: accuracy, the level that ran, and the bandwidth."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from gearnn.distortions import strength
from gearnn.evaluation.figures import WIDTH, styled
from gearnn.levels import DistortionLevel, short
from gearnn.streams.session import FrameRecord

_BASE, _GEAR, _LOST, _LINE = "#222222", "#31a354", "#d7301f", "#2b83ba"


@styled
def over_time(records: Sequence[FrameRecord], *, metric: str) -> Figure:
    """What a stream's frames got, over the time of the presentation.

    Args:
        records: of :class:`gearnn.streams.Session`, at least one.
        metric: name of the score, for its axis.
    """
    ran = [r for r in records if not r.skipped]
    has_score, has_rate = any(r.score is not None for r in ran), any(r.throughput for r in records)
    heights = [1.6] * has_score + [0.5 + 0.28 * max(2, len({r.used for r in ran}))] + [1.4] * has_rate
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.6), layout="constrained")
    panels = list(np.atleast_1d(figure.subplots(len(heights), sharex=True, height_ratios=heights)))
    if has_score:
        _scores(panels.pop(0), ran, metric)
    _levels(panels.pop(0), ran, [r for r in records if r.skipped])
    if has_rate:
        _rates(panels.pop(0), records)
    figure.axes[-1].set_xlabel("time of the presentation, s")
    return figure


def _scores(axes: Axes, ran: Sequence[FrameRecord], metric: str) -> None:
    scored = [r for r in ran if r.score is not None]
    times, scores = [r.time for r in scored], [float(r.score or 0.0) for r in scored]
    colours = [_BASE if r.used == "pristine" else _GEAR for r in scored]
    axes.scatter(times, scores, c=colours, s=7, linewidths=0)
    window = max(1, len(scored) // 40)
    if len(scored) >= 3 * window > 3:
        smooth = np.convolve(np.array(scores, dtype=float), np.ones(window) / window, mode="valid")
        axes.plot(times[window // 2 :][: len(smooth)], smooth, color=_LINE, lw=1.2, label=f"mean of {window} frames")
        axes.legend(loc="lower right", fontsize=8)
    axes.set_ylabel(f"{metric} of a frame, %")
    axes.set_ylim(bottom=0)


def _levels(axes: Axes, ran: Sequence[FrameRecord], skipped: Sequence[FrameRecord]) -> None:
    used = sorted({str(r.used) for r in ran}, key=_order)
    rows = {level: row for row, level in enumerate(used)}
    axes.step([r.time for r in ran], [rows[str(r.used)] for r in ran], where="post", color="#cccccc", lw=0.8)
    colours = [_BASE if r.used == "pristine" else _GEAR for r in ran]
    axes.scatter([r.time for r in ran], [rows[str(r.used)] for r in ran], c=colours, s=9, linewidths=0)
    if skipped:
        axes.plot([r.time for r in skipped], [-0.6] * len(skipped), "x", color=_LOST, ms=4, label="skipped")
        axes.legend(loc="lower right", fontsize=8)
    axes.set_yticks(range(len(used)), ["base" if level == "pristine" else short(level) for level in used])
    axes.set_ylim(-0.9, len(used) - 0.4)
    axes.set_ylabel("gear")


def _order(level: str) -> tuple[str, float]:
    parsed = DistortionLevel.parse(level)
    return (parsed.kind if parsed.parts else "~", -strength(parsed))


def _rates(axes: Axes, records: Sequence[FrameRecord]) -> None:
    first: dict[str, FrameRecord] = {}
    for record in records:
        first.setdefault(record.segment, record)
    measured: list[Any] = [r for r in first.values() if r.throughput]
    times = [r.time for r in measured]
    axes.step(times, [r.throughput for r in measured], where="post", color=_LINE, lw=1, label="throughput")
    chosen = [r.bandwidth or math.nan for r in measured]
    axes.step(times, chosen, where="post", color=_BASE, lw=1, ls="--", label="needed by the representation")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel("kbit/s")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), fontsize=8, ncols=2)
