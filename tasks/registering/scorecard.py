"""What people read: the table of a run, and the scorecard of one version. Text in, text out."""

import math
from collections.abc import Mapping, Sequence

from gearnn.evaluation import solutions
from gearnn.evaluation.solutions import GAIN_WORTH_TELLING, PROMOTE, TEST, kept_share, title
from tasks.records import Base, Data, Row, Score

_HEADINGS = (
    "level",
    "base",
    "clean fine-tune",
    "full fine-tune",
    "adaptor",
    "kept of the gain",
    "values",
    "share",
    "layers",
)


def table_cells(rows: Sequence[Row], base: Base) -> list[tuple[str, ...]]:
    """The table of a run, headings first: accuracies of every solution and the adaptor's size."""
    cells: list[tuple[str, ...]] = [_HEADINGS]
    for row in rows:
        figures = (f"{row.scores[solution].values[TEST]:.1f}" for solution in solutions.SOLUTIONS)
        size = row.adaptor.num_values
        cells.append(
            (
                row.level,
                *figures,
                _kept(row),
                f"{size:,}",
                f"{100 * size / base.num_values:.2f} %",
                str(len(row.selection.layers)),
            )
        )
    return cells


def all_figures(score: Score, role: str) -> dict[str, float]:
    """Every figure of a solution on the split of a role, the primary one first; NaN ones are left out."""
    figures = {score.figure: score.values[role]} | score.figures.get(role, {})
    return {name: value for name, value in figures.items() if not math.isnan(value)}


def _kept(row: Row) -> str:
    base, clean, full, adaptor = (row.scores[solution].values[TEST] for solution in solutions.SOLUTIONS)
    if math.isnan(base + clean + full + adaptor):
        return "no truth"
    if adaptor < base:
        return "worse than the base"
    kept = kept_share(clean, full, adaptor)
    return f"gain under {GAIN_WORTH_TELLING:g} points" if kept is None else f"{100 * kept:.0f} %"


def markdown(cells: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the first row is the heading."""
    heading, *body = cells
    lines = [heading, ["---", *["---:"] * (len(heading) - 1)], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def accuracy_cells(scores: Sequence[Score]) -> list[tuple[str, ...]]:
    """Every figure of some solutions on the test split, headings first."""
    primary = scores[0].figure
    others = [name for name in all_figures(scores[0], TEST) if name != primary]
    heading = (f"{title(primary)} (test)", "95 % interval over frames", *map(title, others))
    cells: list[tuple[str, ...]] = [("solution", *heading)]
    for score in scores:
        figures = all_figures(score, TEST)
        rest = (f"{figures[name]:.2f}" if name in figures else "" for name in others)
        cells.append((score.solution, f"{score.values[TEST]:.2f}", f"{score.low:.1f} to {score.high:.1f}", *rest))
    return cells


def scorecard(row: Row, base: Base, data: Data, tags: Mapping[str, str]) -> str:
    """The description of an adaptor's version: accuracy, size against the bound, layers, digests."""
    accuracy = accuracy_cells(list(row.scores.values()))
    share = 100 * row.adaptor.num_values / base.num_values
    digests = "\n".join(f"- `{name}`: `{value}`" for name, value in sorted(tags.items()))
    return (
        f"### {row.level}\n\n{markdown(accuracy)}\n\n"
        f"**Frames** {data.in_words}.\n\n"
        f"**Size** {row.adaptor.num_values:,} values, {share:.2f} % of the base; "
        f"bound {row.selection.bound:,} values.\n\n"
        f"**{len(row.selection.layers)} layers** {', '.join(f'`{name}`' for name in row.selection.layers)}\n\n"
        f"{_tried(row, data)}"
        f"**Digests**\n{digests}\n"
    )


def _tried(row: Row, data: Data) -> str:
    """The ways to select that were tried; nothing where the plan says which."""
    if not row.selection.tried:
        return ""
    split = data.splits.get(PROMOTE, PROMOTE)
    cells: list[tuple[str, ...]] = [
        ("layers, by trial", "how many", f"score on {split}", "gain, 95 % interval", "taken")
    ]
    for tried in row.selection.tried:
        name = tried.name if tried.rate == 1.0 else f"{tried.name}, {tried.rate:g} of the rate"
        score = "" if tried.score is None else f"{tried.score:.2f}"
        low, high = tried.gain
        is_reference = tried is row.selection.tried[0]
        gain = "" if is_reference or low is None or high is None else f"{low:+.1f} to {high:+.1f}"
        cells.append((name, str(tried.num_layers), score, gain, "yes" if tried.is_chosen else ""))
    return f"{markdown(cells)}\n\n"
