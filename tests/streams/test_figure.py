from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from gearnn.evaluation.figures import save
from gearnn.streams import FrameRecord
from gearnn.streams.figure import over_time

USED = ["jpeg:quality=10", "jpeg:quality=30", "pristine", "jpeg:quality=10"]
PLAIN = [FrameRecord(time=float(i), segment=f"{i:05d}", frame=0, used=used) for i, used in enumerate(USED)]
SCORED = [replace(record, score=10.0 * i) for i, record in enumerate(PLAIN)]
FETCHED = [replace(record, throughput=100.0 + i, bandwidth=50.0 + i) for i, record in enumerate(SCORED)]
LOST = FrameRecord(time=1.5, segment="00009", skipped="the server answers 404")


def labels(axes: list[Axes]) -> list[str]:
    return [one.get_ylabel() for one in axes]


def points(axes: Axes) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in np.asarray(axes.collections[0].get_offsets())]


@pytest.mark.parametrize(
    ("records", "panels"),
    [
        (PLAIN, ["gear"]),
        (SCORED, ["miou of a frame, %", "gear"]),
        ([replace(record, score=None) for record in FETCHED], ["gear", "kbit/s"]),
        (FETCHED, ["miou of a frame, %", "gear", "kbit/s"]),
    ],
)
def test_there_is_a_panel_for_what_is_known(records: list[FrameRecord], panels: list[str]) -> None:
    figure = over_time(records, metric="miou")
    assert labels(figure.axes) == panels
    assert [one.get_xlabel() for one in figure.axes] == [""] * (len(panels) - 1) + ["time of the presentation, s"]


def test_scores_stand_at_their_times_in_the_colour_of_their_gear() -> None:
    axes = over_time(SCORED, metric="miou").axes[0]
    assert points(axes) == [(0.0, 0.0), (1.0, 10.0), (2.0, 20.0), (3.0, 30.0)]
    green, black = "#31a354", "#222222"
    assert [to_hex(colour) for colour in axes.collections[0].get_facecolor()] == [green, green, black, green]


def test_gears_are_rows_from_the_strongest_distortion_to_the_base() -> None:
    figure = over_time(PLAIN, metric="miou")
    (axes,) = figure.axes
    rows = [label.get_text() for label in axes.get_yticklabels()]
    assert rows == ["jpeg 10", "jpeg 30", "base"]
    assert points(axes) == [(0.0, 0.0), (1.0, 1.0), (2.0, 2.0), (3.0, 0.0)]
    assert axes.get_legend() is None


def test_what_was_skipped_is_marked_below_the_gears() -> None:
    figure = over_time([*FETCHED[:2], LOST, *FETCHED[2:], replace(LOST, time=3.5)], metric="miou")
    gears = figure.axes[1]
    (marks,) = [line for line in gears.lines if line.get_marker() == "x"]
    assert list(marks.get_xdata()) == [1.5, 3.5]
    bottom = gears.get_ylim()[0]
    assert all(bottom < y < 0 for y in marks.get_ydata())
    legend = gears.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["skipped"]
    assert points(figure.axes[0]) == [(0.0, 0.0), (1.0, 10.0), (2.0, 20.0), (3.0, 30.0)]


def test_throughput_is_drawn_once_a_segment_beside_what_the_representation_needs() -> None:
    frames = [replace(record, frame=k, time=record.time + k / 4) for record in FETCHED for k in range(3)]
    axes = over_time(frames, metric="miou").axes[-1]
    lines = {str(line.get_label()): line for line in axes.lines}
    assert list(lines) == ["throughput", "needed by the representation"]
    assert list(lines["throughput"].get_xdata()) == [0.0, 1.0, 2.0, 3.0]
    assert list(lines["throughput"].get_ydata()) == [100.0, 101.0, 102.0, 103.0]
    assert list(lines["needed by the representation"].get_ydata()) == [50.0, 51.0, 52.0, 53.0]
    assert axes.get_yscale() == "log"


def test_many_frames_get_a_running_mean() -> None:
    records = [replace(SCORED[0], time=float(i), score=float(i % 2)) for i in range(200)]
    axes = over_time(records, metric="miou").axes[0]
    (line,) = axes.lines
    assert line.get_label() == "mean of 5 frames"
    expected = [sum((i + k) % 2 for k in range(5)) / 5 for i in range(196)]
    assert np.allclose(np.asarray(line.get_ydata()), expected)
    assert list(line.get_xdata())[:2] == [2.0, 3.0]  # in the middle of its window
    assert len(over_time(SCORED, metric="miou").axes[0].lines) == 0


@pytest.mark.parametrize("record", [PLAIN[0], FETCHED[0], FETCHED[2], LOST])
def test_one_record_is_enough(record: FrameRecord, tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    figure = over_time([record], metric="miou")
    assert dict(matplotlib.rcParams) == before
    files = save(figure, tmp_path / "figure")
    assert all(file.stat().st_size > 1000 for file in files)
    assert len(files) >= 1


def test_a_stream_of_which_nothing_arrived_shows_its_marks(tmp_path: Path) -> None:
    figure = over_time([replace(LOST, time=float(i)) for i in range(3)], metric="miou")
    assert labels(figure.axes) == ["gear"]
    assert list(figure.axes[0].lines[-1].get_xdata()) == [0.0, 1.0, 2.0]
    save(figure, tmp_path / "figure")
