"""The layout is the real one on made-up frames; the table of labels is that of cityscapesScripts."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gearnn.datasets import Camera, DistortedDataset, Options, open_split
from gearnn.datasets.cityscapes import CLASS_NAMES, IGNORE, classes_of_ids
from gearnn.distortions import decode, distort_clip
from gearnn.errors import DataError
from gearnn.levels import DistortionLevel
from tests.conftest import REPOSITORY

REFERENCE = json.loads((REPOSITORY / "tests" / "datasets" / "cityscapes_labels.json").read_text())
NAMES = ("aachen_000000_000019", "aachen_000001_000019", "ulm_000000_000019")


def make(root: Path, split: str = "train", before: int = 0) -> Path:
    """Frames whose masks hold every label id, with ``before`` frames of the sequence in front of each."""
    rng = np.random.default_rng(0)
    for name in NAMES:
        city = name.partition("_")[0]
        frame = rng.integers(0, 255, (36, 48, 3), dtype=np.uint8)
        _save(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", frame)
        ids = rng.choice([*range(34), 255], size=(36, 48)).astype(np.uint8)
        ids[0, :35] = [*range(34), 255]
        _save(root / "gtFine" / split / city / f"{name}_gtFine_labelIds.png", ids)
        for back in range(1, before + 1):
            earlier = f"{name[:-6]}{19 - back:06d}_leftImg8bit.png"
            _save(root / "leftImg8bit_sequence" / split / city / earlier, np.roll(frame, back, axis=1))
    return root


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_label_ids_become_the_train_ids_of_cityscapes_scripts() -> None:
    classes = classes_of_ids()
    for label_id, train_id in REFERENCE["ids"].items():
        expected = IGNORE if train_id in (255, -1) else train_id
        assert classes[int(label_id) % 256] == expected, label_id  # -1 is stored as 255
    assert {str(i): name for i, name in enumerate(CLASS_NAMES)} == REFERENCE["names"]


def test_a_split_in_its_own_layout(tmp_path: Path) -> None:
    data = open_split("cityscapes", make(tmp_path), "train", Camera())
    assert [data.name(i) for i in range(len(data))] == [f"{name}_leftImg8bit" for name in NAMES]
    assert data.frame(0).size == (48, 36)
    path = tmp_path / "gtFine" / "train" / "aachen" / f"{NAMES[0]}_gtFine_labelIds.png"
    ids = np.asarray(Image.open(path))
    expected = np.vectorize(lambda i: REFERENCE["ids"].get(str(i), 255))(ids)
    assert np.array_equal(data.target(0), expected)
    assert len(data.clip(0)) == 1


def test_encoders_of_video_see_the_frames_before_a_labelled_one(tmp_path: Path) -> None:
    root = make(tmp_path, before=4)
    data = open_split("cityscapes", root, "train", Camera(), Options(clip=4))
    clip = data.clip(1)
    assert len(clip) == 4
    assert np.array_equal(np.asarray(clip[-1]), np.asarray(data.frame(1)))
    assert np.array_equal(np.asarray(clip[-2]), np.roll(np.asarray(clip[-1]), 1, axis=1))
    level = DistortionLevel.parse("h264:crf=30")
    samples = DistortedDataset(data, level)
    assert np.array_equal(np.asarray(samples[1].image), np.asarray(distort_clip(clip, level)[-1]))
    alone = DistortedDataset(open_split("cityscapes", root, "train", Camera()), level)
    assert samples.encoded(1) != alone.encoded(1)
    assert samples.dataset.frame_digest(1) != alone.dataset.frame_digest(1)
    still = DistortedDataset(data, DistortionLevel.parse("jpeg:quality=30"))
    assert decode(still.encoded(1)).size == (48, 36)


def test_fewer_frames_before_are_taken_where_there_are_no_more(tmp_path: Path) -> None:
    data = open_split("cityscapes", make(tmp_path, before=2), "train", Camera(), Options(clip=20))
    assert len(data.clip(0)) == 3


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"leftImg8bit/train, but it does not exist; unpack leftImg8bit_trainvaltest.zip"
    ):
        open_split("cityscapes", tmp_path, "train", Camera())
    (tmp_path / "leftImg8bit" / "train").mkdir(parents=True)
    with pytest.raises(DataError, match="expected a folder for every city"):
        open_split("cityscapes", tmp_path, "train", Camera())
    make(tmp_path)
    with pytest.raises(DataError, match=r"clip: expected the frames before aachen_000000_000019.*or leave clip out"):
        open_split("cityscapes", tmp_path, "train", Camera(), Options(clip=5))
    (tmp_path / "gtFine" / "train" / "ulm" / f"{NAMES[2]}_gtFine_labelIds.png").unlink()
    with pytest.raises(DataError, match=r"ulm_000000_000019_leftImg8bit.png has no label, expected .*labelIds.png"):
        open_split("cityscapes", tmp_path, "train", Camera())
    _save(tmp_path / "leftImg8bit" / "train" / "ulm" / "holiday.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(
        DataError, match=r"expected frames named <city>_<sequence>_<frame>_leftImg8bit.png, but got .*holiday"
    ):
        open_split("cityscapes", tmp_path, "train", Camera())


def test_an_id_that_cityscapes_does_not_define_is_named(tmp_path: Path) -> None:
    make(tmp_path)
    path = tmp_path / "gtFine" / "train" / "ulm" / f"{NAMES[2]}_gtFine_labelIds.png"
    _save(path, np.full((36, 48), 77, np.uint8))
    with pytest.raises(DataError, match=r"ulm.*expected classes 0 to 18 or 255 for void, but got 77"):
        open_split("cityscapes", tmp_path, "train", Camera()).target(2)


def test_a_gap_in_a_sequence_ends_the_clip(tmp_path: Path) -> None:
    root = make(tmp_path, before=4)
    (root / "leftImg8bit_sequence" / "train" / "ulm" / "ulm_000000_000017_leftImg8bit.png").unlink()
    data = open_split("cityscapes", root, "train", Camera(), Options(clip=5))
    assert [len(data.clip(index)) for index in range(3)] == [5, 5, 2]
