"""The page of a benchmark: its parts, and what they say in plain words."""

from collections.abc import Mapping

import pandas as pd

from gearnn.evaluation import solutions
from gearnn.evaluation.figures import Figure
from gearnn.evaluation.report import Entry, Line, Report, Section, Table
from gearnn.evaluation.results import OK, Solution
from gearnn.evaluation.solutions import GAIN_WORTH_TELLING, TEST, title
from gearnn.plan.sections import RecipeSpec
from tasks.benchmarking import sections
from tasks.benchmarking.figures import Findings

_ADAPTOR, _FULL = Solution(solutions.ADAPTOR), Solution(solutions.FULL)
_BASE, _MIXED = Solution(solutions.BASE), Solution(solutions.MIXED)


def compose(found: Findings, drawn: Mapping[str, Figure]) -> Report:
    """The page."""
    plan, results = found.plan, found.results
    seeds = plan.benchmark.seeds or (plan.seed,)
    parts = [
        sections.accuracy(found, drawn),
        sections.gains(results),
        sections.other_figures(found, drawn),
        sections.memory(found),
        sections.layers(found, drawn),
        sections.frequency(found, drawn),
        sections.examples(drawn),
        _how(found),
    ]
    return Report(
        title=f"Is GearNN worth it? {plan.registered_base}",
        subtitle=(
            f"{title(results.metric)} in percent on the split {plan.data.splits.test} "
            f"({found.data.num_frames[TEST]} frames), {len(plan.levels)} levels, "
            f"bound {plan.bound.in_values(found.base.num_values):,} of {found.base.num_values:,} values, "
            f"seeds {', '.join(map(str, seeds))}; MLflow run {found.run_id}."
        ),
        verdict=_verdict(found),
        sections=[section for section in parts if section.tables or section.figures or section.texts],
    )


def _verdict(found: Findings) -> list[str]:
    """The answer in plain words, and what the answer does not rest on."""
    results, lines = found.results, []
    own, base, full = (results.average(each) for each in (_ADAPTOR, _BASE, _FULL))
    if own.problem or base.problem or full.problem:
        cells = zip((_ADAPTOR, _BASE, _FULL), (own, base, full), strict=True)
        gaps = [f"{solution} has {cell.problem}" for solution, cell in cells if cell.problem]
        return [f"No verdict over all levels: {', '.join(gaps)}. The tables say what was measured, and why not more."]
    lines.append(
        f"With every level equally likely adaptors (GearNN) have {own.mean:.1f}, the base alone {base.mean:.1f}, "
        f"full fine-tunes (DNN switching) {full.mean:.1f}: {own.mean - base.mean:+.1f} against the base, "
        f"{own.mean - full.mean:+.1f} against full fine-tunes. Differences within the spread over seeds and the "
        f"intervals over frames say little."
    )
    mixed = results.average(_MIXED)
    if not mixed.problem:
        lines.append(f"Mixed training, one network of the same number of steps, has {mixed.mean:.1f}.")
    averages = {each: results.average(each).mean for each in results.solutions if each not in (_ADAPTOR, _FULL)}
    ahead = [f"{each} ({mean:.1f})" for each, mean in averages.items() if mean > own.mean]
    if ahead:
        lines.append(f"More than adaptors without whole networks to switch: {', '.join(ahead)}.")
    kept = {level: results.kept(level) for level in results.levels}
    told = [f"{100 * share:.0f} % at {level}" for level, share in kept.items() if share is not None and share == share]
    if any(share != share for share in kept.values()):
        lines.append("What adaptors keep of the gain is not known everywhere: the pristine control is missing.")
    elif told:
        lines.append(f"Of what full fine-tunes gain over the pristine control adaptors keep {', '.join(told)}.")
    else:
        lines.append(
            f"Full fine-tunes gain less than {GAIN_WORTH_TELLING:g} points over the pristine control at every level: "
            f"there is little here that adapting repairs."
        )
    lost = [level for level in results.levels if results.cell(_ADAPTOR, level).mean < results.cell(_BASE, level).mean]
    if lost:
        lines.append(f"Worse than the base at {', '.join(lost)}.")
    return lines


def _how(found: Findings) -> Section:
    tables = [
        Table(heading=["made", "how many", "wall time"], rows=_times(found.table)),
        Table(heading=["MLflow runs", "seed", "run"], rows=_runs(found.table)),
    ]
    return Section(key="how", title="How it was measured", texts=_how_in_words(found), tables=tables)


def _how_in_words(found: Findings) -> list[str]:
    full, partial = found.plan.finetune, found.plan.of_adaptors
    texts = [
        f"Frames: {found.data.in_words}.",
        f"Whole networks: {_recipe(full)}. Adaptors of every kind: {_recipe(partial)}. The same seed, order of frames "
        f"and mirroring for all.",
    ]
    shown = {solution.name for solution in found.results.solutions}
    if solutions.MIXED_LONG in shown:
        texts.append(
            f"{solutions.MIXED_LONG} has {len(found.plan.distortion_levels)} times the steps of one full fine-tune."
        )
    if solutions.PAPER_RECIPE in shown:
        paper = found.plan.as_in_paper
        texts.append(
            f"{solutions.PAPER_RECIPE} and {solutions.PAPER_FULL}: {_recipe(paper.finetune)}; Eq. 2 alone, and no "
            f"running statistics move."
        )
    if found.plan.finetune.target not in (None, "labels"):
        texts.append(
            f"Whole networks a level and adaptors learn from: {found.plan.finetune.target}. Mixed and stability "
            f"training, and the paper's recipe, learn from labels."
        )
    texts.append("Adaptors need the full fine-tunes and the control before their own, which are counted there.")
    if found.failures:
        texts.append("Not measured: " + "; ".join(found.failures) + ".")
    return texts


def _times(table: pd.DataFrame) -> list[Line]:
    """How often every solution was trained, and how long that took in all."""
    trained = table[table["status"] == OK].drop_duplicates(["solution", "setting", "level_trained", "seed"])
    times = trained.groupby("solution", sort=False)["seconds"].agg(["count", "sum"])
    return [
        _line(str(name), str(int(row["count"])), f"{row['sum'] / 60:.1f} min")
        for name, row in times.iterrows()
        if row["sum"]
    ]


def _runs(table: pd.DataFrame) -> list[Line]:
    rows = table.drop_duplicates(["solution", "setting", "seed"]).itertuples()
    return [_line(f"{row.solution} {row.setting}".strip(), str(row.seed), str(row.run_id)) for row in rows]


def _line(*texts: str) -> Line:
    return Line(cells=[Entry(text=text) for text in texts])


def _recipe(how: RecipeSpec) -> str:
    facts = how.facts()
    optimizer = facts["optimizer"]
    extra = " times the size of each tensor's values" if optimizer.get("relative") else ""
    extra += f", momentum {optimizer['momentum']:g}" if optimizer["name"] == "sgd" else ""
    extra += f", weight decay {optimizer['weight_decay']:g}" if optimizer["weight_decay"] else ""
    extra += f", gradients clipped at {facts['clip']:g}" if facts.get("clip") else ""
    schedule = facts["schedule"] + (f" after a warm-up of {100 * facts['warmup']:g} %" if facts["warmup"] else "")
    share = facts.get("distill", 0.0)
    taught = f", {100 * share:g} % of the loss from the full fine-tune's predictions" if share else ""
    return (
        f"{optimizer['name']} at {optimizer['lr']:g}{extra}, {schedule}, {facts['epochs']} epochs of batches of "
        f"{facts['batch_size']}{taught}"
    )
