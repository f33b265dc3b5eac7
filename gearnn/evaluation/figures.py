"""The paper's figures from tables, in one look; each function gives a matplotlib figure.

Nothing here reads files or trains: :mod:`gearnn.evaluation.results`, :mod:`gearnn.sensitivity` and
:mod:`gearnn.evaluation.frequency` say what is drawn. What is missing is said in the figure, in its place.
"""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, TwoSlopeNorm
from matplotlib.figure import Figure as Figure

from gearnn.evaluation import solutions
from gearnn.evaluation.results import Cell, Results, Solution
from gearnn.evaluation.solutions import title as title_of
from gearnn.levels import DistortionLevel, short
from gearnn.sensitivity import CHANGE_THRESHOLD, share_of_changed_weights, share_of_sensitive_layers

_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "gearnn",
    "savefig.dpi": 150,
}
_LOOKS = {
    solutions.BASE: ("#222222", "o", "-"),
    solutions.CLEAN: ("#999999", "o", ":"),
    solutions.STABILITY: ("#8c6bb1", "v", "-"),
    solutions.REESTIMATED: ("#c6a15b", "1", ":"),
    solutions.LAST_LAYERS: ("#c6a15b", "x", "--"),
    solutions.BATCHNORM: ("#b07030", "s", "-"),
    solutions.MIXED: ("#2b83ba", "^", "-"),
    solutions.MIXED_LONG: ("#2b83ba", "^", "--"),
    solutions.PAPER_RECIPE: ("#d7301f", "D", ":"),
    solutions.EQ2: ("#d7301f", "D", "--"),
    solutions.ADAPTOR: ("#d7301f", "D", "-"),
    solutions.PAPER_FULL: ("#31a354", "P", ":"),
    solutions.FULL: ("#31a354", "P", "-"),
}
WIDTH = 7.2  # inches; a page of the report, and of a paper


styled = matplotlib.rc_context(_STYLE)
"""Decorator: draws in the house's look, and leaves matplotlib's settings as they were."""


@styled
def save(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as PNG and as SVG, the same bytes for the same figure."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once is enough for every format
    written = []
    for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
        path = stem.with_name(stem.name + suffix)
        figure.savefig(path, metadata=metadata)
        written.append(path)
    return written


@styled
def as_svg(figure: Figure) -> str:
    """A figure as an SVG element."""
    content = io.StringIO()
    figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()[content.getvalue().index("<svg") :]


@styled
def weight_change(tables: Mapping[str, pd.DataFrame], size: int) -> Figure:
    """Fig. 5: mean change of every layer after full fine-tuning, one panel a level.

    Args:
        tables: level -> sensitivity table.
        size: values of the base, for the share above 2e-4.
    """
    figure, panels = _panels(len(tables), height=1.9, sharex=True)
    for axes, (level, table) in zip(panels, tables.items(), strict=True):
        values, order = table["sensitivity"].to_numpy(), np.arange(len(table))
        norms = table["kind"].str.contains("Norm").to_numpy()
        floor = values[values > 0].min() / 2 if (values > 0).any() else 1e-9
        for chosen, colour, label in ((~norms, "#d7301f", "weights and biases"), (norms, "#2b83ba", "BatchNorm")):
            axes.vlines(order[chosen], floor, values[chosen].clip(min=floor), color=colour, lw=3, label=label)
        if not table["sensitivity_pristine"].isna().all():
            axes.plot(order, table["sensitivity_pristine"], ".", color="#222222", ms=3, label="pristine control")
        axes.axhline(CHANGE_THRESHOLD, color="#777777", lw=0.8, ls="--")
        axes.set_yscale("log", subs=[])
        layers, weights = share_of_sensitive_layers(table, size), share_of_changed_weights(table, size)
        held = f"layers above 2e-4 (dashed) hold {100 * layers:.2g} % of the model"
        axes.set_title(f"{level}: {held}; of single weights {100 * weights:.2g} % are", loc="left", fontsize=9)
        axes.set_ylabel("mean |change|")
    panels[-1].set_xlabel("layer, in the order of the network")
    figure.legend(*panels[0].get_legend_handles_labels(), ncols=3, fontsize=8, loc="outside upper right")
    return figure


@styled
def accuracy_over_levels(results: Results) -> Figure:
    """Fig. 10 to 12: accuracy over levels, one line a solution, stability training at its best setting only."""
    best = best_stability(results)
    shown = [s for s in results.solutions if s.name != solutions.STABILITY or s in best]
    return _lines(results, {solution: _LOOKS[solution.name][0] for solution in shown})


@styled
def stability_grid(results: Results) -> Figure:
    """Fig. 13: stability training over (alpha, sigma), the adaptors and the base, over levels."""
    shown = [s for s in results.solutions if s.name in (solutions.BASE, solutions.STABILITY, solutions.ADAPTOR)]
    grid = [solution for solution in shown if solution.name == solutions.STABILITY]
    shades = iter(matplotlib.colormaps["Purples"](np.linspace(0.4, 0.95, max(1, len(grid)))))
    return _lines(results, {s: next(shades) if s in grid else _LOOKS[s.name][0] for s in shown})


def _lines(results: Results, colours: Mapping[Solution, Any]) -> Figure:
    """One line a solution over levels; bars are the spread over seeds."""
    figure, (axes,) = _panels(1, height=4.0)
    places, notes = np.arange(len(results.levels)), []
    for solution, colour in colours.items():
        _, marker, line = _LOOKS[solution.name]
        cells = [results.cell(solution, level) for level in results.levels]
        means, spreads = [cell.mean for cell in cells], np.nan_to_num([cell.spread for cell in cells])
        look = {"color": colour, "marker": marker, "ls": line, "ms": 5, "lw": 1.4, "label": str(solution)}
        if spreads.any():
            axes.errorbar(places, means, yerr=spreads, capsize=2, **look)
        else:
            axes.plot(places, means, **look)
        notes += [f"{solution}: {reason}" for reason in _missing(cells, results.levels)]
    axes.set_xticks(places, [short(level) for level in results.levels], rotation=20, ha="right")
    if len(places) == 1:
        axes.set_xlim(-1, 1)
    axes.set_ylabel(f"{title_of(results.metric)} (%)")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
    _note(figure, notes)
    return figure


@styled
def matrix(results: Results) -> Figure:
    """Every adaptor at every level: what a wrongly sensed level costs. The base is the last row."""
    trained = [level for level in results.levels if not DistortionLevel.parse(level).is_pristine]
    cells = [[results.cell(Solution(solutions.ADAPTOR), tested, own) for tested in results.levels] for own in trained]
    cells.append([results.cell(Solution(solutions.BASE), tested) for tested in results.levels])
    values = np.array([[cell.mean for cell in row] for row in cells])
    figure, (axes,) = _panels(1, height=0.42 * len(cells) + 1.3)
    axes.grid(visible=False)
    axes.imshow(np.ma.masked_invalid(values), cmap="YlGn", aspect="auto")
    known = values[np.isfinite(values)]
    dark_from = known.min() + 0.55 * (known.max() - known.min()) if len(known) else math.inf
    for row, column in np.ndindex(values.shape):
        light = known.min() < known.max() and values[row, column] >= dark_from if len(known) else False
        own = row < len(trained) and trained[row] == results.levels[column]
        weight = "bold" if own else "normal"
        axes.text(column, row, str(cells[row][column]), ha="center", va="center", color="white" if light else "black",
                  weight=weight, fontsize=8)  # fmt: skip
    axes.set_xticks(range(len(results.levels)), [short(level) for level in results.levels], rotation=20, ha="right")
    axes.set_yticks(range(len(cells)), [*map(short, trained), "base"])
    axes.set_xlabel("level of the frames")
    axes.set_ylabel("adaptor of")
    axes.set_title(f"{title_of(results.metric)} (%); bold: the level that the adaptor is for", loc="left", fontsize=9)
    return figure


@styled
def accuracy_over_bound(results: Results, level: str, size: int) -> Figure:
    """Section 4.1: accuracy at one level over the adaptor's size, beside what else fits there.

    Args:
        results: the benchmark.
        level: q.
        size: values of the base.
    """
    figure, (axes,) = _panels(1, height=3.6)
    cells = {solution: results.cell(solution, level) for solution in results.bounds(level)}
    sizes = {solution: results.size(solution, level) or 0 for solution in cells}
    shown = sorted((100 * sizes[s] / size, cell.mean) for s, cell in cells.items() if not cell.problem)
    colour, marker, line = _LOOKS[solutions.ADAPTOR]
    axes.plot(
        [x for x, _ in shown],
        [y for _, y in shown],
        color=colour,
        marker=marker,
        ls=line,
        ms=5,
        label=solutions.ADAPTOR,
    )
    for name in (solutions.BATCHNORM, solutions.LAST_LAYERS):
        values, cell = results.size(Solution(name), level), results.cell(Solution(name), level)
        if values is not None and not cell.problem:
            colour, marker, _ = _LOOKS[name]
            axes.plot([100 * values / size], [cell.mean], color=colour, marker=marker, ls="", ms=7, label=name)
    for name in (solutions.BASE, solutions.MIXED, solutions.FULL):
        cell = results.cell(Solution(name), level)
        if not cell.problem:
            colour, _, _ = _LOOKS[name]
            axes.axhline(cell.mean, color=colour, lw=1.0, ls="--", label=name)
    axes.set_xlabel("values of the adaptor, in percent of the base")
    axes.set_ylabel(f"{title_of(results.metric)} (%) at {level}")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
    _note(figure, [f"{s.setting or 'own bound'}: {cell.problem}" for s, cell in cells.items() if cell.problem])
    return figure


@styled
def frequency_maps(maps: Mapping[str, np.ndarray]) -> Figure:
    """Fig. 4, 6, 7: luma response of every network in the first row, change against the first one below it.

    Args:
        maps: name -> response, float64 [3, rows, columns]; the first is what the others are compared with.
    """
    names, lumas = list(maps), [response[0] for response in maps.values()]
    figure = Figure(figsize=(max(4.0, 1.85 * len(names) + 0.9), 4.3), layout="constrained")
    panels = figure.subplots(2, len(names), squeeze=False)
    positive = np.concatenate([luma[luma > 0] for luma in lumas])
    positive = positive if len(positive) else np.ones(1)
    scale = LogNorm(vmin=float(positive.min()), vmax=float(positive.max()))
    differences = [luma - lumas[0] for luma in lumas[1:]]
    widest = max((float(np.abs(d).max()) for d in differences), default=1.0) or 1.0
    around = TwoSlopeNorm(0.0, -widest, widest)
    for column, (name, luma) in enumerate(zip(names, lumas, strict=True)):
        top, below = panels[0][column], panels[1][column]
        drawn = top.imshow(luma, cmap="magma", norm=scale, interpolation="nearest")
        top.set_title(name, fontsize=8)
        if column:
            changed = below.imshow(differences[column - 1], cmap="RdBu_r", norm=around, interpolation="nearest")
            below.set_title(f"minus {names[0]}", fontsize=8)
        else:
            below.set_visible(False)
        for axes in (top, below):
            axes.grid(visible=False)
            axes.set_xticks([])
            axes.set_yticks([])
    panels[0][0].set_xlabel("horizontal frequency →", fontsize=7)
    panels[0][0].set_ylabel("← vertical frequency", fontsize=7)
    figure.colorbar(drawn, ax=list(panels[0]), fraction=0.03, label="mean |gradient|")
    if differences:
        figure.colorbar(changed, ax=list(panels[1]), fraction=0.03, label="change")
    return figure


@styled
def examples(rows: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Frames and masks side by side: one row a level, one column a picture.

    Args:
        rows: level -> title -> picture, uint8 [H, W, 3].
    """
    columns = max(len(pictures) for pictures in rows.values())
    first = next(iter(next(iter(rows.values())).values()))
    height = WIDTH / columns * first.shape[0] / first.shape[1] + 0.24
    figure = Figure(figsize=(WIDTH, height * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), columns, squeeze=False)
    for line, (level, pictures) in zip(panels, rows.items(), strict=True):
        for axes, (title, picture) in zip(line, pictures.items(), strict=False):
            axes.imshow(picture, interpolation="nearest")
            axes.set_title(title, fontsize=7, pad=2)
        line[0].set_ylabel(short(level), fontsize=7)
        for axes in line:
            axes.set_xticks([])
            axes.set_yticks([])
            axes.grid(visible=False)
            for spine in axes.spines.values():
                spine.set_visible(False)
    return figure


def best_stability(results: Results) -> list[Solution]:
    """The (alpha, sigma) with the best mean over levels; the first, where none is complete; none without a grid."""
    grid = [solution for solution in results.solutions if solution.name == solutions.STABILITY]
    averages = {solution: results.average(solution).mean for solution in grid}
    complete = [solution for solution in grid if not math.isnan(averages[solution])]
    return [max(complete, key=lambda solution: averages[solution])] if complete else grid[:1]


def _panels(number: int, *, height: float, sharex: bool = False) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH, height * number), layout="constrained")
    return figure, list(figure.subplots(number, 1, squeeze=False, sharex=sharex)[:, 0])


def _missing(cells: Sequence[Cell], levels: Sequence[str]) -> list[str]:
    return [f"{short(level)} {cell.problem}" for level, cell in zip(levels, cells, strict=True) if cell.problem]


def _note(figure: Figure, notes: Sequence[str]) -> None:
    """What has no point in the figure, in words below it."""
    if notes:
        text = "no value: " + "; ".join(notes[:6]) + (f"; and {len(notes) - 6} more" if len(notes) > 6 else "")
        figure.supxlabel(text, fontsize=7, color="#b00000", wrap=True)
