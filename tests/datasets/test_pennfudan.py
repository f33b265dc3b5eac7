import re
from pathlib import Path

import numpy as np
import pytest

from gearnn.datasets import Camera, open_split, with_truth
from gearnn.datasets.fetch import content_digest
from gearnn.datasets.pennfudan import CONTENT_SHA256, SPLITS, PennFudan
from gearnn.errors import DataError
from gearnn.metrics.detection import _box_overlaps
from tests.shared.pennfudan import make


def test_the_split_is_fixed_by_the_number_of_an_image(tmp_path: Path) -> None:
    root = make(tmp_path)
    names = {
        split: [d.name(i) for i in range(len(d))]
        for split in SPLITS
        for d in [open_split("pennfudan", root, split, Camera())]
    }
    assert names["val"] == ["FudanPed00007", "FudanPed00017"]
    assert names["test"] == ["FudanPed00008", "FudanPed00009", "FudanPed00018", "FudanPed00019"]
    assert len(names["train"]) == 14
    (root / "PNGImages" / "FudanPed00003.png").unlink()
    again = open_split("pennfudan", root, "test", Camera())
    assert [again.name(i) for i in range(len(again))] == names["test"]


def test_masks_give_classes_and_instances(tmp_path: Path) -> None:
    data = open_split("pennfudan", make(tmp_path), "train", Camera())
    assert isinstance(data, PennFudan)
    instances = data.instances(0)
    assert np.unique(instances).tolist() == [0, 1, 2]
    assert np.array_equal(data.target(0), (instances > 0).astype(np.uint8))
    assert data.class_names == ("background", "pedestrian")


def test_what_is_missing_is_named_with_the_command_that_brings_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"PNGImages, but it does not exist; `gearnn data fetch pennfudan --to"):
        open_split("pennfudan", tmp_path, "train", Camera())
    with pytest.raises(DataError, match="expected a split among train, val, test, but got 'trainval'"):
        open_split("pennfudan", make(tmp_path), "trainval", Camera())
    (tmp_path / "PedMasks" / "FudanPed00001_mask.png").unlink()
    with pytest.raises(DataError, match=r"FudanPed00001.png has no label, expected .*FudanPed00001_mask.png"):
        open_split("pennfudan", tmp_path, "train", Camera())


@pytest.mark.data
def test_the_real_database_is_whole(shared: Path) -> None:
    root = shared / "data" / "PennFudanPed"
    assert content_digest(root) == CONTENT_SHA256
    sizes = {}
    pedestrians = 0
    for split in SPLITS:
        data = open_split("pennfudan", root, split, Camera())
        assert isinstance(data, PennFudan)
        sizes[split] = len(data)
        pedestrians += sum(int(data.instances(index).max()) for index in range(len(data)))
    assert sizes == {"train": 122, "val": 16, "test": 32}
    assert pedestrians == 423  # the database's own page counts 345; its masks hold more


@pytest.mark.data
def test_boxes_are_those_of_the_authors_annotation(shared: Path) -> None:
    root = shared / "data" / "PennFudanPed"
    overlaps, instances = [], 0
    for split in SPLITS:
        frames = with_truth(open_split("pennfudan", root, split, Camera()), "instances")
        for index in range(len(frames)):
            found = frames.target(index)
            instances += len(found.labels)
            text = (root / "Annotation" / f"{frames.name(index)}.txt").read_text(errors="replace")
            for sides in re.findall(r"\(Xmax, Ymax\) : \((\d+), (\d+)\) - \((\d+), (\d+)\)", text):
                left, top, right, bottom = map(float, sides)
                stated = np.array([[left - 1, top - 1, right, bottom]])  # they count pixels from 1
                boxes = found.boxes.astype(np.float64)
                overlaps.append(_box_overlaps(stated, boxes, np.zeros(len(boxes), dtype=bool)).max())
    assert instances == len(overlaps) == 423
    assert min(overlaps) > 0.9
    assert np.mean(np.array(overlaps) == 1) > 0.95
