"""The check of a plan's splits."""

import logging
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gearnn.datasets import Camera
from gearnn.datasets.streets import Streets
from gearnn.errors import DataError
from gearnn.plan import Plan
from gearnn.plan.opened import Opened
from tasks.adapting.data import check_data


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two videos: the first in train, both in val, of which one frame is in train, too."""
    scenes, number = Streets("s", 9, 0, Camera(size=(48, 32))), 0
    for split, listed in (("train", ["a_0", "a_1", "a_2"]), ("val", ["a_3", "b_0", "b_1", "c_0"])):
        for kind in ("images", "masks"):
            (tmp_path / split / kind).mkdir(parents=True)
        for name in listed:
            scenes.frame(number).save(tmp_path / split / "images" / f"{name}.png")
            Image.new("L", (48, 32)).save(tmp_path / split / "masks" / f"{name}.png")
            number += 1
    return tmp_path


def opened(root: Path, **splits: str) -> Opened:
    content: dict[str, Any] = {
        "base": {"name": "drn_d_22_quarter", "train": {}},
        "data": {"name": "folder", "root": str(root), "classes": ["a", "b"], "splits": splits},
        "levels": ["jpeg:quality=5"],
        "store": str(root / "store"),
    }
    return Opened(Plan.read(content, source="test"))


HALVES = {"promote": "val[:50%]", "test": "val[50%:]"}


def test_a_record_says_which_frames_serve_what_and_what_they_share(root: Path, caplog: Any) -> None:
    with caplog.at_level(logging.WARNING):
        data = check_data.run(opened(root, **HALVES))
    assert data.in_words == (
        "trained on train (3 frames), chosen on val[:50%] (1 frame), reported on val[50%:] (3 frames); val[:50%] "
        "shares the sequence a with train (1 and 3 frames)"
    )
    assert "frames: val[:50%] shares the sequence a with train" in caplog.text


def test_a_frame_in_two_splits_is_refused_unless_it_is_meant(root: Path) -> None:
    content = (root / "train" / "images" / "a_1.png").read_bytes()
    (root / "val" / "images" / "b_1.png").write_bytes(content)
    with pytest.raises(DataError, match=r"data.splits: .* but val\[50%:\] and train have 1 frame in common: "):
        check_data.run(opened(root, **HALVES))
    data = check_data.run(opened(root, **HALVES, overlap="reported"))
    assert "val[50%:] and train have 1 frame in common: a_1 and b_1" in data.in_words


def test_one_split_in_two_roles_is_said(root: Path) -> None:
    data = check_data.run(opened(root, promote="val", test="val", overlap="reported"))
    assert "val serves as promote and test" in data.in_words


def test_without_a_test_split_the_way_out_is_named(root: Path) -> None:
    with pytest.raises(DataError, match=r"set data.splits: \{promote: 'val\[:50%\]', test: 'val\[50%:\]'\}"):
        check_data.run(opened(root))
