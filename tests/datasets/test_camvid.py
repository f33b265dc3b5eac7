from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gearnn.datasets import Camera, check_frames
from gearnn.datasets.camvid import open_camvid
from gearnn.errors import DataError


def test_frames_and_labels_go_together(camvid: Path) -> None:
    data = open_camvid(camvid, "train", Camera())
    assert (len(data), data.name(1), data.ignore_index, len(data.class_names)) == (3, "001", 11, 11)
    assert data.frame(1).size == (48, 36)
    assert data.target(1).shape == (36, 48)
    check_frames(data)


def test_the_camera_scales_frames_by_box_and_labels_by_nearest(camvid: Path) -> None:
    data, half = open_camvid(camvid, "train", Camera()), open_camvid(camvid, "train", Camera(size=(24, 18)))
    pixels = np.asarray(data.frame(0), np.float64)
    mean = pixels.reshape(18, 2, 24, 2, 3).mean(axis=(1, 3))
    assert np.abs(np.asarray(half.frame(0), np.float64) - mean).max() <= 1
    assert set(np.unique(half.target(0))) <= set(np.unique(data.target(0)))


def test_the_digest_follows_the_content(camvid: Path) -> None:
    def digest(size: tuple[int, int] | None = None) -> str:
        return open_camvid(camvid, "train", Camera(size=size)).digest()

    before = digest()
    assert before == digest() != digest((24, 18))
    label = np.asarray(Image.open(camvid / "trainannot" / "002.png")).copy()
    label[0, 0] = (label[0, 0] + 1) % 9
    Image.fromarray(label).save(camvid / "trainannot" / "002.png")
    assert digest() != before


def test_missing_folders_and_labels_are_named(camvid: Path) -> None:
    with pytest.raises(DataError, match=r"expected the folder .*night, but it does not exist"):
        open_camvid(camvid, "night", Camera())
    (camvid / "trainannot" / "001.png").unlink()
    with pytest.raises(DataError, match=r"frame .*train/001\.png has no label, expected .*trainannot/001\.png"):
        open_camvid(camvid, "train", Camera())
    for path in (camvid / "val").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"expected images \(.png\) in .*val, but it has none"):
        open_camvid(camvid, "val", Camera())


def test_bad_files_are_found_before_training(camvid: Path) -> None:
    def check() -> None:
        check_frames(open_camvid(camvid, "train", Camera(size=(24, 18))))

    label, frame = camvid / "trainannot" / "001.png", camvid / "train" / "002.png"
    good_label, good_frame = label.read_bytes(), frame.read_bytes()
    frame.write_bytes(good_frame[:300])
    with pytest.raises(DataError, match=r"002\.png: expected a readable image"):
        check()
    frame.write_bytes(good_frame)
    Image.new("L", (48, 36), 12).save(label)
    with pytest.raises(DataError, match=r"001\.png: expected classes 0 to 10 or 11 for void, but got 12"):
        check()
    Image.new("L", (47, 36), 1).save(label)
    with pytest.raises(DataError, match=r"001\.png: expected the size of its frame, 48x36, but got 47x36"):
        check()
    Image.new("RGB", (48, 36)).save(label)
    with pytest.raises(DataError, match=r"001\.png: expected one index a pixel, of at most 16 bits, but got mode RGB"):
        check()
    label.write_bytes(good_label)
    check()


@pytest.mark.data
def test_the_real_splits_are_complete(shared: Path) -> None:
    root = shared / "data" / "camvid"
    sizes = {split: len(open_camvid(root, split, Camera())) for split in ("train", "val")}
    assert sizes == {"train": 367, "val": 101}
    data = open_camvid(root, "val", Camera(size=(240, 180)))
    assert data.frame(0).size == (240, 180)
    assert set(np.unique(data.target(0))) <= set(range(12))
