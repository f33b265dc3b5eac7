from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gearnn.datasets import Camera, Options, open_split
from gearnn.datasets.frames import FrameDataset
from gearnn.errors import DataError

OPTIONS = Options(class_names=("floor", "wall"), ignore_index=9)


def make(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, suffix in (("a", ".png"), ("b", ".jpg"), ("c", ".JPEG")):
        (root / "train" / "images").mkdir(parents=True, exist_ok=True)
        (root / "train" / "masks").mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "train" / "images" / f"{name}{suffix}")
        Image.fromarray(rng.choice([0, 1, 9], (12, 16)).astype(np.uint8)).save(root / "train" / "masks" / f"{name}.png")
    return root


def opened(root: Path, split: str = "train") -> FrameDataset:
    return open_split("folder", root, split, Camera(size=(8, 6)), OPTIONS)


def test_any_folder_of_images_and_masks(tmp_path: Path) -> None:
    data = opened(make(tmp_path))
    assert [data.name(i) for i in range(3)] == ["a", "b", "c"]
    assert data.frame(1).size == (8, 6)
    assert set(np.unique(data.target(0))) <= {0, 1, 9}
    assert (data.class_names, data.ignore_index) == (("floor", "wall"), 9)


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected the folder .*train/images, but it does not exist"):
        opened(tmp_path)
    make(tmp_path)
    mask = tmp_path / "train" / "masks" / "b.png"
    Image.new("L", (16, 12), 5).save(mask)
    with pytest.raises(DataError, match=r"b.png: expected classes 0 to 1 or 9 for void, but got 5"):
        opened(tmp_path).target(1)
    Image.new("L", (16, 11)).save(mask)
    with pytest.raises(DataError, match=r"b.png: expected the size of its frame, 16x12, but got 16x11"):
        opened(tmp_path).target(1)
    mask.unlink()
    with pytest.raises(DataError, match=r"b.jpg has no label, expected .*masks/b.png"):
        opened(tmp_path)
    (tmp_path / "val" / "images").mkdir(parents=True)
    with pytest.raises(DataError, match=r"expected images \(.png, .jpg, .jpeg\) in .*val/images, but it has none"):
        opened(tmp_path, "val")


def test_an_unknown_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"unknown dataset 'kitti'; expected one of camvid, cityscapes, class_folders, folder",
    ):
        open_split("kitti", tmp_path, "train", Camera())


def test_two_frames_of_one_name_are_refused(tmp_path: Path) -> None:
    make(tmp_path)
    Image.new("RGB", (16, 12)).save(tmp_path / "train" / "images" / "a.jpg")
    with pytest.raises(DataError, match=r"expected frames of different names, but got .*images/a\.(jpg|png) and a\."):
        opened(tmp_path)
