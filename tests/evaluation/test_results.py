import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from gearnn.errors import DataError
from gearnn.evaluation import solutions
from gearnn.evaluation.results import Results, Solution, read_results, write_results
from tests.shared.results import LEVELS, failed, full_table, row

ADAPTOR, BASE = Solution(solutions.ADAPTOR), Solution(solutions.BASE)


def table(*rows: dict[str, Any]) -> Results:
    return Results(pd.DataFrame(rows), LEVELS)


def test_a_table_survives_the_way_to_parquet_and_back(tmp_path: Path) -> None:
    written = write_results(tmp_path / "t.parquet", full_table(), {"plan": "p"})
    read, about = read_results(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(written, read, check_dtype=False)
    assert about == {"plan": "p"}
    (tmp_path / "no.parquet").write_text("text")
    with pytest.raises(DataError, match="expected a Parquet file"):
        read_results(tmp_path / "no.parquet")
    write_results(tmp_path / "old.parquet", [row("GearNN", LEVELS[0], 40.0)], {"plan": "p"})
    with pytest.raises(DataError, match=r"old.parquet: expected solutions among base, .*, but got GearNN; `gearnn ben"):
        read_results(tmp_path / "old.parquet")
    pd.DataFrame({"solution": []}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(DataError, match=r"'level_tested', .* are missing"):
        read_results(tmp_path / "other.parquet")


def test_means_and_gains_are_those_of_a_pocket_calculator() -> None:
    results = table(*full_table())
    assert results.average(BASE).mean == pytest.approx(45.0)
    assert results.average(ADAPTOR).mean == pytest.approx((44.5 + 52 + 55) / 3)  # the base runs at Q=100
    assert results.gain(ADAPTOR, BASE).mean == pytest.approx((14.5 + 2 + 0) / 3)
    assert results.gain(ADAPTOR, Solution(solutions.MIXED)).mean == pytest.approx((4.5 + 1 + 2) / 3)
    assert results.gain(ADAPTOR, Solution(solutions.FULL)).mean == pytest.approx((-1.5 + 0.5) / 3)
    assert results.kept(LEVELS[0]) == pytest.approx((44.5 - 31) / (46 - 31))
    assert results.kept(LEVELS[1]) is None  # the full fine-tune gains 1.5 points there
    assert results.kept(LEVELS[2]) is None  # the base runs there, in both
    assert [s.name for s in results.solutions] == [
        solutions.BASE,
        solutions.CLEAN,
        solutions.MIXED,
        solutions.ADAPTOR,
        solutions.FULL,
    ]


def test_seeds_are_averaged_and_their_spread_is_told() -> None:
    rows = full_table() + [
        row(solutions.ADAPTOR, level, v, seed=1) for level, v in zip(LEVELS, (46.5, 51.0), strict=False)
    ]
    results = table(*rows)
    cell = results.cell(ADAPTOR, LEVELS[0])
    assert (cell.mean, cell.num_seeds) == (45.5, 2)
    assert cell.spread == pytest.approx(math.sqrt(2))
    assert str(cell) == "45.5 ± 1.4"
    assert str(results.cell(BASE, LEVELS[0])) == "30.0"
    average = results.average(ADAPTOR)
    assert average.num_seeds == 2
    assert average.mean == pytest.approx(((44.5 + 52 + 55) + (46.5 + 51 + 55)) / 6)
    assert average.spread == pytest.approx(abs((44.5 + 52) - (46.5 + 51)) / 3 / math.sqrt(2))


def test_nothing_that_is_missing_is_dropped_from_an_average() -> None:
    rows = [r for r in full_table() if (r["solution"], r["level_tested"]) != (solutions.MIXED, LEVELS[1])]
    results = table(*rows)
    assert str(results.cell(Solution(solutions.MIXED), LEVELS[1])) == "not measured"
    assert str(results.average(Solution(solutions.MIXED))) == "2 of 3 levels"
    assert math.isnan(results.average(Solution(solutions.MIXED)).mean)
    assert str(results.gain(ADAPTOR, Solution(solutions.MIXED))) == "mixed training: 2 of 3 levels"


@pytest.mark.parametrize("kind", [solutions.DIVERGED, solutions.NOT_POSSIBLE, solutions.FAILED])
def test_a_solution_that_failed_says_so_in_place_of_its_value(kind: str) -> None:
    rows = [r for r in full_table() if r["solution"] != solutions.ADAPTOR]
    rows += [failed(solutions.ADAPTOR, LEVELS[0], kind), row(solutions.ADAPTOR, LEVELS[1], 52.0)]
    results = table(*rows)
    assert str(results.cell(ADAPTOR, LEVELS[0])) == kind
    assert str(results.average(ADAPTOR)) == "2 of 3 levels"
    kept = results.kept(LEVELS[0])
    assert kept is not None
    assert math.isnan(kept)


def test_one_diverged_seed_is_not_averaged_away() -> None:
    rows = [*full_table(), failed(solutions.ADAPTOR, LEVELS[0], solutions.DIVERGED, seed=1)]
    assert str(table(*rows).cell(ADAPTOR, LEVELS[0])) == "diverged"


def test_a_figure_that_is_nan_is_undefined() -> None:
    rows = [*full_table(), row(solutions.LAST_LAYERS, LEVELS[0], math.nan)]
    assert str(table(*rows).cell(Solution(solutions.LAST_LAYERS), LEVELS[0])) == "undefined"


def test_other_bounds_are_a_curve_and_no_solution_of_their_own() -> None:
    rows = full_table()
    rows += [row(solutions.ADAPTOR, LEVELS[0], 45.0, setting="bound=1 %", num_values=50)]
    rows += [failed(solutions.ADAPTOR, LEVELS[0], solutions.NOT_POSSIBLE, setting="bound=0.1 %", num_values=5)]
    results = table(*rows)
    assert ADAPTOR in results.solutions
    assert Solution(solutions.ADAPTOR, "bound=1 %") not in results.solutions
    found = {
        s.setting: (results.size(s, LEVELS[0]), str(results.cell(s, LEVELS[0]))) for s in results.bounds(LEVELS[0])
    }
    assert found == {"": (10, "44.5"), "bound=0.1 %": (None, "not possible"), "bound=1 %": (50, "45.0")}


def test_an_adaptor_at_another_level_is_asked_for_by_its_own() -> None:
    rows = [*full_table(), row(solutions.ADAPTOR, LEVELS[1], 41.0, level_trained=LEVELS[0])]
    results = table(*rows)
    assert results.cell(ADAPTOR, LEVELS[1], LEVELS[0]).mean == 41.0
    assert results.cell(ADAPTOR, LEVELS[1]).mean == 52.0


def test_differences_are_paired_over_frames() -> None:
    rows = [
        row(solutions.BASE, LEVELS[0], 30.0, draws=[28.0, 30.0, 33.0]),
        row(solutions.ADAPTOR, LEVELS[0], 31.0, draws=[29.0, 31.0, 34.0]),  # always one point more
        row(solutions.BASE, LEVELS[1], 50.0, draws=[49.0, 50.0, 52.0]),
        row(solutions.ADAPTOR, LEVELS[1], 50.5, draws=[51.0, 50.0, 51.0]),
    ]
    results = Results(pd.DataFrame(rows), LEVELS[:2])
    first, second = (results.difference(ADAPTOR, BASE, level) for level in LEVELS[:2])
    assert (first.low, first.high) == (1.0, 1.0)
    assert second.low < 0 < second.high
    over_both = results.difference(ADAPTOR, BASE)
    assert (over_both.low, over_both.high) == (pytest.approx(0.0, abs=0.1), pytest.approx(1.5, abs=0.1))
    rows[1]["draws"] = None
    unknown = Results(pd.DataFrame(rows), LEVELS[:2]).difference(ADAPTOR, BASE, LEVELS[0])
    assert math.isnan(unknown.low)
