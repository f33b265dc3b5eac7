import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gearnn.evaluation import figures, solutions
from gearnn.evaluation.figures import Figure
from gearnn.evaluation.results import Results
from tests.shared.results import LEVELS, failed, full_table, row


def text_of(figure: Figure) -> str:
    return " ".join(re.findall(r">([^<>]+)</text>", figures.as_svg(figure)))


def sensitivity() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "layer": ["a", "b", "c"],
            "kind": ["Conv2d", "BatchNorm2d", "Conv2d"],
            "num_weights": [100, 10, 50],
            "sensitivity": [1e-4, 1e-3, 3e-4],
            "share_changed": [0.1, 1.0, 0.5],
            "sensitivity_pristine": [1e-6, 1e-6, 1e-6],
        }
    )


def drawings() -> dict[str, Figure]:
    rows = [*full_table(), row(solutions.ADAPTOR, LEVELS[0], 45.0, setting="bound=1 %", num_values=50)]
    rows += [
        row(solutions.STABILITY, level, 40.0 + a, setting=f"alpha={a}, sigma=0.1") for a in (1, 2) for level in LEVELS
    ]
    results = Results(pd.DataFrame(rows), LEVELS)
    maps = {name: np.random.default_rng(i).random((3, 8, 8)) + 0.1 for i, name in enumerate(("original", "full"))}
    picture = np.zeros((20, 30, 3), np.uint8)
    return {
        "weight change": figures.weight_change({LEVELS[0]: sensitivity()}, 1000),
        "accuracy": figures.accuracy_over_levels(results),
        "stability": figures.stability_grid(results),
        "matrix": figures.matrix(results),
        "bound": figures.accuracy_over_bound(results, LEVELS[0], 1000),
        "frequency": figures.frequency_maps(maps),
        "examples": figures.examples({LEVELS[0]: {"frame": picture, "truth": picture}}),
    }


@pytest.mark.parametrize("name", list(drawings()))
def test_every_figure_is_written_as_png_and_svg_and_repeats_byte_for_byte(name: str, tmp_path: Path) -> None:
    first, second = (figures.save(drawings()[name], tmp_path / which / "figure") for which in "ab")
    assert [path.suffix for path in first] == [".png", ".svg"]
    with Image.open(first[0]) as image:
        assert image.width >= 300
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_fig_5_tells_the_share_of_the_model_that_changed() -> None:
    text = text_of(drawings()["weight change"])
    assert "layers above 2e-4 (dashed) hold 6 % of the model; of single weights 4.5 % are" in text


def test_stability_is_shown_with_its_best_setting_only() -> None:
    text = text_of(drawings()["accuracy"])
    assert "alpha=2, sigma=0.1" in text
    assert "alpha=1" not in text


def test_what_has_no_value_is_said_in_the_figure() -> None:
    rows = [r for r in full_table() if r["solution"] != solutions.ADAPTOR]
    rows += [failed(solutions.ADAPTOR, LEVELS[0], solutions.DIVERGED)]
    results = Results(pd.DataFrame(rows), LEVELS)
    text = text_of(figures.accuracy_over_levels(results))
    assert "no value: adaptor: jpeg 5 diverged; adaptor: jpeg 20 not measured" in text
    matrix = text_of(figures.matrix(results))
    assert "diverged" in matrix
    assert "not measured" in matrix


def test_one_level_alone_and_nothing_at_all_can_be_drawn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = Results(pd.DataFrame([r for r in full_table() if r["level_tested"] == LEVELS[0]]), LEVELS[:1])
        figures.accuracy_over_levels(one)
        figures.matrix(one)
        every = [failed(r["solution"], r["level_tested"], solutions.FAILED) for r in full_table()]
        nothing = Results(pd.DataFrame(every), LEVELS)
        assert "no value" in text_of(figures.accuracy_over_levels(nothing))
        assert "failed" in text_of(figures.matrix(nothing))
        figures.accuracy_over_bound(nothing, LEVELS[0], 1000)
        figures.stability_grid(nothing)
        figures.frequency_maps({"original": np.zeros((3, 8, 8))})
