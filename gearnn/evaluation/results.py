"""The table of a benchmark, and the figures that section 5 quotes from it. Tables in, tables out.

One row is one solution, trained with one seed, scored at one level by one figure. What could not be
measured stands in the table with its reason, and no mean is taken over what is incomplete.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from gearnn.errors import DataError
from gearnn.evaluation.solutions import ADAPTOR, BASE, BENCHMARKED, CLEAN, FULL, PER_LEVEL, TEST, kept_share
from gearnn.levels import DistortionLevel
from gearnn.metrics.interval import Interval, gained
from gearnn.store.tables import read_parquet, schema_of, write_parquet

OK = "ok"
"""``status`` of a row that has a value."""

_COLUMNS = {
    "solution": (pa.string(), "name in gearnn.evaluation.solutions"),
    "setting": (pa.string(), "what distinguishes it from others of the same name; empty where nothing has to"),
    "level_trained": (pa.string(), "level of its training frames; mixed, pristine, or empty for the base"),
    "level_tested": (pa.string(), "level of the frames it was scored on"),
    "split": (pa.string(), "role of the split: test is reported, promote is what versions are chosen by"),
    "metric": (pa.string(), "name of the figure; larger is better"),
    "is_primary": (pa.bool_(), "whether it is the figure by which solutions are compared"),
    "value": (pa.float64(), "the figure, in percent; NaN where there is none"),
    "low": (pa.float64(), "lower end of the 95 % bootstrap interval over frames; primary figure on test only"),
    "high": (pa.float64(), "upper end"),
    "draws": (pa.list_(pa.float32()), "the primary figure of many draws of frames; equal splits draw alike, so "
              "differences of two rows are paired"),
    "seed": (pa.int64(), "of the fine-tune"),
    "num_values": (pa.int64(), "floating-point values that this solution adds to memory for this level"),
    "seconds": (pa.float64(), "wall time of its fine-tune"),
    "status": (pa.string(), "ok, or in a word why there is no value: diverged, not possible, failed"),
    "reason": (pa.string(), "the error; empty where there is a value"),
    "run_id": (pa.string(), "MLflow run that holds the figure"),
}  # fmt: skip
SCHEMA = schema_of(_COLUMNS)
"""Columns of a benchmark's table; every field's metadata describes it."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One solution at one level, or a mean over levels: over seeds.

    Attributes:
        mean: over seeds, in percent; NaN where a value is missing.
        spread: standard deviation over seeds; NaN for a single one.
        num_seeds: how many seeds.
        problem: why there is no mean; empty where there is one.
    """

    mean: float
    spread: float = math.nan
    num_seeds: int = 1
    problem: str = ""

    def __str__(self) -> str:
        if self.problem:
            return self.problem
        return f"{self.mean:.1f}" if math.isnan(self.spread) else f"{self.mean:.1f} ± {self.spread:.1f}"


@dataclass(frozen=True)
class Solution:
    """A solution, by name and setting.

    Attributes:
        name: in :mod:`gearnn.evaluation.solutions`.
        setting: what distinguishes it from others of the same name.
    """

    name: str
    setting: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.setting})" if self.setting else self.name


def write_results(path: Path, rows: Sequence[Mapping[str, object]], about: Mapping[str, str]) -> pd.DataFrame:
    """Write a benchmark's table as Parquet, and give it as a frame.

    Args:
        path: file to write.
        rows: with the columns of ``SCHEMA``.
        about: facts on the whole table, kept in the file's metadata under ``gearnn.<key>``.
    """
    table = pd.DataFrame(list(rows), columns=list(_COLUMNS))
    write_parquet(path, table, SCHEMA, about)
    return table


def read_results(path: Path) -> tuple[pd.DataFrame, dict[str, str]]:
    """Read a benchmark's table and what it says about itself.

    Raises:
        DataError: the file is no such table, or names solutions as GearNN no longer does.
    """
    table, about = read_parquet(path, SCHEMA, "benchmark table")
    unknown = sorted(set(map(str, table["solution"])) - set(BENCHMARKED))
    if unknown:
        raise DataError(
            f"benchmark table {path}: expected solutions among {', '.join(BENCHMARKED)}, but got {', '.join(unknown)}; "
            f"`gearnn benchmark` writes it anew, and trains nothing again"
        )
    return table, about


class Results:
    """A benchmark's table, asked one figure at a time.

    Args:
        table: with the columns of ``SCHEMA``.
        levels: in order; None takes those of the table, as they come.
        metric: figure; None takes the primary one.
        split: role of the split.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        levels: Sequence[str] | None = None,
        metric: str | None = None,
        split: str = TEST,
    ) -> None:
        self.levels = list(levels) if levels is not None else list(dict.fromkeys(table["level_tested"]))
        primary = table.loc[table["is_primary"], "metric"]
        self.metric = metric or (str(primary.iloc[0]) if len(primary) else "")
        wanted = (table["metric"] == self.metric) | (table["metric"] == "")  # rows of failures have no metric
        self._rows = table[wanted & (table["split"] == split)]

    @property
    def solutions(self) -> list[Solution]:
        """In the order of :data:`gearnn.evaluation.solutions.BENCHMARKED`; adaptors under other bounds are left out."""
        pairs = dict.fromkeys(zip(self._rows["solution"], self._rows["setting"], strict=True))
        found = [Solution(name, setting) for name, setting in pairs if not (name == ADAPTOR and setting)]
        return sorted(found, key=lambda solution: _order(solution.name))

    def cell(self, solution: Solution, level: str, trained: str | None = None) -> Cell:
        """A solution at a level, over seeds.

        Args:
            solution: which.
            level: tested.
            trained: level of its training frames; None takes what the solution would use at this level: its
                own adaptor or network, or the base at a pristine one.
        """
        rows = self._rows_of(solution, level, trained)
        if len(rows) == 0:
            return Cell(mean=math.nan, num_seeds=0, problem="not measured")
        failed = rows[rows["status"] != OK]
        if len(failed):
            return Cell(mean=math.nan, num_seeds=len(rows), problem=str(failed["status"].iloc[0]))
        values = rows["value"]
        if values.isna().any():
            return Cell(mean=math.nan, num_seeds=len(rows), problem="undefined")
        return Cell(mean=float(values.mean()), spread=float(values.std(ddof=1)), num_seeds=len(rows))

    def interval(self, solution: Solution, level: str) -> tuple[float, float]:
        """95 % interval over frames: mean of the seeds' ends; NaN where there is none."""
        rows = self._rows_of(solution, level, None)
        return (float(rows["low"].mean()), float(rows["high"].mean())) if len(rows) else (math.nan, math.nan)

    def run_of(self, solution: Solution, level: str) -> str:
        """The MLflow run of the first seed's figure; empty where there is none."""
        rows = self._rows_of(solution, level, None)
        return str(rows["run_id"].iloc[0]) if len(rows) else ""

    def average(self, solution: Solution) -> Cell:
        """Mean over all levels, each equally likely, as section 5 takes it; none where a level is missing."""
        return self._over_levels({level: self.cell(solution, level) for level in self.levels}, solution)

    def gain(self, solution: Solution, other: Solution) -> Cell:
        """Mean over levels of what a solution has more than another; none where either is incomplete."""
        one, two = self.average(solution), self.average(other)
        if one.problem or two.problem:
            return Cell(mean=math.nan, num_seeds=0, problem=one.problem or f"{other}: {two.problem}")
        return Cell(mean=one.mean - two.mean, num_seeds=min(one.num_seeds, two.num_seeds))

    def difference(self, solution: Solution, other: Solution, level: str | None = None) -> Interval:
        """The paired 95 % interval over frames of what a solution has more than another; NaN where it is not known.

        Args:
            solution: one.
            other: the other one.
            level: tested; None takes the mean over levels.
        """
        levels = self.levels if level is None else [level]
        ours, theirs = ([self._draws(each, tested) for tested in levels] for each in (solution, other))
        if any(drawn is None for drawn in (*ours, *theirs)):
            return Interval(math.nan, math.nan)
        return gained(_mean([d for d in ours if d is not None]), _mean([d for d in theirs if d is not None]))

    def _draws(self, solution: Solution, level: str) -> np.ndarray | None:
        """A solution's draws at a level, mean over seeds; None where a row has none."""
        rows = self._rows_of(solution, level, None)
        drawn = [None if drawn is None else np.asarray(drawn, float) for drawn in rows["draws"]]
        return _mean([d for d in drawn if d is not None]) if drawn and all(d is not None for d in drawn) else None

    def kept(self, level: str) -> float | None:
        """See :func:`gearnn.evaluation.solutions.kept_share`; None at pristine levels, where both run the base."""
        if DistortionLevel.parse(level).is_pristine:
            return None
        solutions = (Solution(name) for name in (CLEAN, FULL, ADAPTOR))
        return kept_share(*(self.cell(solution, level).mean for solution in solutions))

    def size(self, solution: Solution, level: str) -> int | None:
        """Values that a solution adds to memory for a level; None where none was trained."""
        rows = self._rows_of(solution, level, None)
        rows = rows[rows["status"] == OK]
        return int(rows["num_values"].iloc[0]) if len(rows) else None

    def bounds(self, level: str) -> list[Solution]:
        """The adaptor under every bound that was tried at a level, the plan's own first."""
        rows = self._rows[(self._rows["solution"] == ADAPTOR) & (self._rows["level_tested"] == level)]
        return [Solution(ADAPTOR, setting) for setting in sorted(map(str, set(rows["setting"])))]

    def _rows_of(self, solution: Solution, level: str, trained: str | None) -> pd.DataFrame:
        if trained is None and solution.name in PER_LEVEL:
            if DistortionLevel.parse(level).is_pristine:
                solution, trained = Solution(BASE), ""
            else:
                trained = level
        rows = self._rows
        wanted = (rows["solution"] == solution.name) & (rows["setting"] == solution.setting)
        wanted &= rows["level_tested"] == level
        return rows[wanted if trained is None else wanted & (rows["level_trained"] == trained)]

    def _over_levels(self, cells: Mapping[str, Cell], solution: Solution) -> Cell:
        missing = [level for level, cell in cells.items() if cell.problem]
        if missing or not cells:
            return Cell(mean=math.nan, num_seeds=0, problem=f"{len(cells) - len(missing)} of {len(cells)} levels")
        by_level = [self._by_seed(solution, level) for level in cells]
        seeds = set().union(*by_level) - {_ANY_SEED}
        totals = [sum(found.get(seed, found.get(_ANY_SEED, math.nan)) for found in by_level) for seed in seeds]
        means = pd.Series(totals, dtype=float) / len(cells)
        mean = sum(cell.mean for cell in cells.values()) / len(cells)
        spread = math.nan if means.isna().any() else float(means.std(ddof=1))
        return Cell(mean=mean, spread=spread, num_seeds=max(1, len(seeds)))

    def _by_seed(self, solution: Solution, level: str) -> dict[int, float]:
        """Values at a level; where the base runs in the solution's place, one for any seed."""
        rows = self._rows_of(solution, level, None)
        if solution.name in PER_LEVEL and DistortionLevel.parse(level).is_pristine:
            return {_ANY_SEED: float(rows["value"].iloc[0])}
        return {int(seed): float(value) for seed, value in zip(rows["seed"], rows["value"], strict=True)}


_ANY_SEED = -1


def _mean(drawn: Sequence[np.ndarray]) -> np.ndarray:
    """Draw by draw, as many as all have."""
    number = min(map(len, drawn))
    mean: np.ndarray = np.mean([each[:number] for each in drawn], axis=0)
    return mean


def _order(name: str) -> int:
    return BENCHMARKED.index(name) if name in BENCHMARKED else len(BENCHMARKED)
