import math

from gearnn.evaluation import solutions
from gearnn.evaluation.solutions import PROMOTE, TEST
from gearnn.store.storage import Ref
from tasks.records import AdaptorFile, Base, Data, Network, Row, Score, Selection, Table
from tasks.registering.scorecard import markdown, scorecard, table_cells

REF = Ref("objects/a", "a" * 64, 1)
BASE = Base(weights=REF, fingerprint="f" * 64, num_values=1000)
DATA = Data(digests={}, num_frames={"train": 8, "promote": 4, "test": 2})


def make_row(clean: float, full: float, adaptor: float) -> Row:
    figures = {solutions.BASE: 30.0, solutions.CLEAN: clean, solutions.FULL: full, solutions.ADAPTOR: adaptor}
    scores = {
        solution: Score(
            solution=solution,
            level="jpeg:quality=5",
            figure="miou",
            values={PROMOTE: 0.0, TEST: value},
            low=value - 1,
            high=value + 1,
            per_class=(value, None),
        )
        for solution, value in figures.items()
    }
    return Row(
        level="jpeg:quality=5",
        scores=scores,
        table=Table(level="jpeg:quality=5", parquet=REF, share_sensitive=0.01),
        selection=Selection(level="jpeg:quality=5", layers=("a", "b"), num_values=8, bound=10),
        adaptor=AdaptorFile(level="jpeg:quality=5", file=REF, num_values=8, epoch_losses=(1.0,), seconds=1.0),
        full=Network(level="jpeg:quality=5", weights=REF, epoch_losses=(1.0,), seconds=1.0),
    )


def test_what_is_kept_is_measured_against_the_pristine_control() -> None:
    assert table_cells([make_row(clean=40.0, full=50.0, adaptor=48.0)], BASE)[1][5] == "80 %"
    assert table_cells([make_row(clean=40.0, full=50.0, adaptor=39.0)], BASE)[1][5] == "-10 %"


def test_a_gain_under_two_points_gives_no_share() -> None:
    row = make_row(clean=40.0, full=41.9, adaptor=41.0)
    assert table_cells([row], BASE)[1][5] == "gain under 2 points"


def test_a_figure_that_is_missing_gives_no_share() -> None:
    assert table_cells([make_row(clean=math.nan, full=50.0, adaptor=48.0)], BASE)[1][5] == "no truth"


def test_the_table_has_every_solution_and_the_size() -> None:
    heading, line = table_cells([make_row(clean=40.0, full=50.0, adaptor=48.0)], BASE)
    assert heading[:5] == ("level", *solutions.SOLUTIONS)
    assert line == ("jpeg:quality=5", "30.0", "40.0", "50.0", "48.0", "80 %", "8", "0.80 %", "2")
    assert markdown([heading, line]).splitlines()[2].startswith("| jpeg:quality=5 | 30.0 |")


def test_a_scorecard_tells_accuracy_size_layers_and_digests() -> None:
    card = scorecard(make_row(clean=40.0, full=50.0, adaptor=48.0), BASE, DATA, {"gearnn.data.digest": "d"})
    for part in (
        "| adaptor | 48.00 | 47.0 to 49.0 |",
        "8 values, 0.80 %",
        "bound 10 values",
        "`a`, `b`",
        "`gearnn.data.digest`: `d`",
    ):
        assert part in card
