"""The parts of a benchmark's page: what its numbers are, in tables and figures."""

import io
import math
from collections.abc import Mapping

from gearnn.evaluation import figures, solutions
from gearnn.evaluation.figures import Figure
from gearnn.evaluation.frequency import closeness, high_frequency_share
from gearnn.evaluation.report import Entry, Line, Picture, Section, Table, png_picture, svg_picture
from gearnn.evaluation.results import Cell, Results, Solution
from gearnn.evaluation.solutions import GAIN_WORTH_TELLING
from gearnn.evaluation.solutions import title as title_of
from gearnn.levels import short
from gearnn.metrics.interval import Interval
from gearnn.sensitivity import share_of_changed_weights, share_of_sensitive_layers
from tasks.benchmarking.figures import Findings

_ADAPTOR = Solution(solutions.ADAPTOR)


def accuracy(found: Findings, drawn: Mapping[str, Figure]) -> Section:
    """The primary figure of every solution at every level (Fig. 10 to 13), wrong levels, other bounds."""
    results = found.results
    rows = []
    for solution in results.solutions:
        cells = [_entry(results.cell(solution, level), results, solution, level) for level in results.levels]
        average = _entry(results.average(solution))
        rows.append(Line(cells=[Entry(text=str(solution)), *cells, average], emphasis=solution == _ADAPTOR))
    kept = [results.kept(level) for level in results.levels]
    rows.append(Line(cells=[Entry(text="kept of the gain"), *map(_share, kept), Entry(text="")]))
    table = Table(
        heading=["solution", *map(short, results.levels), "mean"],
        rows=rows,
        caption="± is the standard deviation over seeds. Point at a figure for its run and 95 % interval over frames.",
    )
    names = [
        f"accuracy-{results.metric.replace('_', '-')}",
        "stability",
        "matrix",
        *(n for n in drawn if n.startswith("bound-")),
    ]
    captions = {
        "stability": "Stability training over its grid (Fig. 13).",
        "matrix": "Every adaptor at every level: what a wrongly sensed level costs.",
    }
    pictures = [_picture(drawn[n], n, captions.get(n, "")) for n in names if n in drawn]
    return Section(key="accuracy", title="Accuracy", tables=[table], figures=pictures)


def gains(results: Results) -> Section:
    """The averages that the text of section 5 quotes."""
    pairs = [(_ADAPTOR, other) for other in results.solutions if other != _ADAPTOR]
    rows = []
    for one, other in pairs:
        gain = results.gain(one, other)
        cells = [_gain_at(results, one, other, level) for level in results.levels]
        average = _with_interval(_signed(gain), results.difference(one, other))
        rows.append(Line(cells=[Entry(text=f"over {other}"), *cells, average]))
    table = Table(
        heading=["gain of adaptors", *map(short, results.levels), "mean"],
        rows=rows,
        caption=(
            "Points; negative where adaptors have less. In brackets those whose paired 95 % interval over frames holds "
            "0: they may be chance. Point at a figure for its interval."
        ),
    )
    return Section(key="gains", title="Gains and losses", tables=[table])


def other_figures(found: Findings, drawn: Mapping[str, Figure]) -> Section:
    """The problem's other figures, such as box AP (Fig. 12)."""
    tables, pictures = [], []
    for metric in found.metrics[1:]:
        results = Results(found.table, found.plan.levels, metric)
        rows = [
            Line(
                cells=[
                    Entry(text=str(s)),
                    *(_entry(results.cell(s, level)) for level in results.levels),
                    _entry(results.average(s)),
                ],
                emphasis=s == _ADAPTOR,
            )
            for s in results.solutions
        ]
        tables.append(Table(heading=[title_of(metric), *map(short, results.levels), "mean"], rows=rows))
        name = f"accuracy-{metric.replace('_', '-')}"
        pictures.append(_picture(drawn[name], name, title_of(metric)))
    return Section(key="figures", title="Other figures", tables=tables, figures=pictures)


def memory(found: Findings) -> Section:
    """Table 1."""
    rows = [
        Line(
            cells=[
                Entry(text=row.solution),
                Entry(text=f"{row.nominal:,}"),
                Entry(text=f"{row.overhead:.1f} %"),
                Entry(text=f"{row.values:,}"),
                Entry(text=_megabytes(row.disk)),
                Entry(text=_megabytes(row.resident)),
            ],
            emphasis=row.solution == solutions.ADAPTOR,
        )
        for row in found.memory
    ]
    heading = ["solution", "values, nominal", "overhead", "values, actual", "on disk", "resident"]
    text = (
        f"As Table 1: nominal counts every adaptor that has a bound as large as that, for the "
        f"{len(found.plan.distortion_levels)} distorted levels; at a pristine one the base runs. Resident is what the "
        f"tensors of one base and all adaptors take once loaded. A solution that lacks a level has no row."
    )
    return Section(key="memory", title="Memory", texts=[text], tables=[Table(heading=heading, rows=rows)])


def layers(found: Findings, drawn: Mapping[str, Figure]) -> Section:
    """Which layers change (Fig. 5)."""
    size = found.base.num_values
    pairs = {
        level: (100 * share_of_sensitive_layers(table, size), 100 * share_of_changed_weights(table, size))
        for level, table in found.sensitivities.items()
    }
    shares = [f"{level} {layers:.2g} % ({weights:.2g} %)" for level, (layers, weights) in pairs.items()]
    texts = [
        f"Share of the model in layers whose mean change exceeds 2e-4 (Fig. 5), in brackets the share of single "
        f"weights that change by more: {', '.join(shares)}."
    ]
    pictures = [_picture(drawn["weight-change"], "weight-change", "")] if "weight-change" in drawn else []
    return Section(key="layers", title="Which layers change", texts=texts if shares else [], figures=pictures)


def frequency(found: Findings, drawn: Mapping[str, Figure]) -> Section:
    """Frequency responses (Fig. 4, 6, 7)."""
    base = found.responses.get(solutions.BASE)
    rows = []
    for title, response in found.responses.items():
        solution, _, level = title.partition("\n")
        full = found.responses.get(f"{solutions.FULL}\n{level}")
        near = "" if full is None or base is None else f"{closeness(base, full, response):.2f}"
        cells = [
            title.replace("\n", " "),
            f"{response[0].sum():.4g}",
            f"{100 * high_frequency_share(response):.1f} %",
            near,
        ]
        rows.append(Line(cells=[Entry(text=cell) for cell in cells], emphasis=solution == solutions.ADAPTOR))
    heading = ["network", "|gradient|, luma, summed", "of it at high frequencies", "closeness to the full fine-tune"]
    texts = [
        "High is the half of the coefficients behind the diagonal. Closeness is 1 - |own - full| / |base - full|, "
        "summed over all coefficients: 1 where the responses agree, 0 where the own one is as far off as the base, "
        "negative where it is farther, such as twice as far in the same direction."
    ]
    pictures = [
        _picture(
            drawn[name],
            name,
            "Mean |gradient| of the loss by DCT coefficient of luma; low frequencies at the upper left.",
        )
        for name in ("frequency", "frequency-whole-frame")
        if name in drawn
    ]
    tables = [Table(heading=heading, rows=rows)] if rows else []
    return Section(
        key="frequency", title="Frequency response", texts=texts if rows else [], tables=tables, figures=pictures
    )


def examples(drawn: Mapping[str, Figure]) -> Section:
    """Frames, and what is seen in them."""
    pictures = [_picture(figure, name, "") for name, figure in drawn.items() if name.startswith("example-")]
    return Section(key="examples", title="Examples", figures=pictures)


def _picture(figure: Figure, name: str, caption: str) -> Picture:
    """Drawings as SVG; what is made of pixels as PNG, which is smaller."""
    if name.startswith(("example", "frequency-whole")):
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=130)
        return png_picture(content.getvalue(), caption)
    return svg_picture(figures.as_svg(figure), caption, name)


def _entry(cell: Cell, results: Results | None = None, solution: Solution | None = None, level: str = "") -> Entry:
    if cell.problem:
        return Entry(text=cell.problem, missing=True)
    note = ""
    if results is not None and solution is not None:
        low, high = results.interval(solution, level)
        interval = "" if math.isnan(low) else f"{low:.1f} to {high:.1f}; "
        note = f"{interval}{cell.num_seeds} seed(s); run {results.run_of(solution, level)}"
    return Entry(text=str(cell), note=note)


def _gain_at(results: Results, one: Solution, other: Solution, level: str) -> Entry:
    value = results.cell(one, level).mean - results.cell(other, level).mean
    if math.isnan(value):
        return Entry(text="")
    return _with_interval(Entry(text=f"{value:+.1f}"), results.difference(one, other, level))


def _with_interval(entry: Entry, interval: Interval) -> Entry:
    """A difference with its interval; in brackets where that holds 0."""
    if entry.missing or math.isnan(interval.low):
        return entry
    text = f"({entry.text})" if interval.low <= 0 <= interval.high else entry.text
    return Entry(text=text, note=f"{interval.low:+.1f} to {interval.high:+.1f}")


def _signed(cell: Cell) -> Entry:
    return Entry(text=cell.problem, missing=True) if cell.problem else Entry(text=f"{cell.mean:+.2f}")


def _share(kept: float | None) -> Entry:
    if kept is None:
        return Entry(text=f"gain under {GAIN_WORTH_TELLING:g}")
    return Entry(text="not measured", missing=True) if math.isnan(kept) else Entry(text=f"{100 * kept:.0f} %")


def _megabytes(number: int) -> str:
    return f"{number / 1e6:.2f} MB"
