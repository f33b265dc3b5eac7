from hashlib import sha256
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
    with pytest.raises(DataError, match=r"expected the folder .*train, but it does not exist"):
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


def sideways(upright: Image.Image, path: Path, orientation: int) -> None:
    """Store a picture as a camera that was held so does."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = {1: None, 3: Image.Transpose.ROTATE_180, 5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90}
    turn = stored[orientation]
    (upright if turn is None else upright.transpose(turn)).save(path, exif=exif)


def one_frame(root: Path, orientation: int = 1, mask: np.ndarray | None = None) -> FrameDataset:
    """A frame of 16x12 with one bright corner, and its mask."""
    for name in ("images", "masks", "instances"):
        (root / "train" / name).mkdir(parents=True, exist_ok=True)
    corner = np.zeros((12, 16), np.uint8)
    corner[:4, :6] = 1
    sideways(Image.fromarray(corner * np.uint8(250)).convert("RGB"), root / "train" / "images" / "a.png", orientation)
    Image.fromarray(corner if mask is None else mask).save(root / "train" / "masks" / "a.png")
    Image.fromarray(corner).save(root / "train" / "instances" / "a.png")
    return open_split("folder", root, "train", Camera(), OPTIONS)


@pytest.mark.parametrize("orientation", [3, 5, 6])
def test_masks_belong_to_the_upright_frame(tmp_path: Path, orientation: int) -> None:
    data = one_frame(tmp_path, orientation)
    assert data.size(0) == data.frame(0).size == (16, 12)
    assert np.array_equal(np.asarray(data.frame(0))[..., 0] > 125, data.target(0) == 1)
    assert np.array_equal(data.target(0), data.instances(0))


def test_a_mask_that_carries_an_orientation_is_turned_by_it(tmp_path: Path) -> None:
    data, before = one_frame(tmp_path, 6), one_frame(tmp_path).target(0)
    sideways(Image.fromarray(before), tmp_path / "train" / "masks" / "a.png", 5)
    sideways(Image.fromarray(before), tmp_path / "train" / "instances" / "a.png", 3)
    assert np.array_equal(data.target(0), before)
    assert np.array_equal(data.instances(0), before)


def test_a_mask_that_was_drawn_sideways_is_refused_with_the_likely_reason(tmp_path: Path) -> None:
    drawn_on_what_is_stored = np.zeros((16, 12), np.uint8)
    with pytest.raises(
        DataError,
        match=r"a.png: expected the size of its frame, 16x12, but got 12x16; the frame is turned upright by its EXIF "
        r"orientation 6, and masks belong to the upright picture",
    ):
        one_frame(tmp_path, 6, drawn_on_what_is_stored).target(0)
    with pytest.raises(DataError, match="but got 12x16; perhaps one of them was turned by its EXIF orientation"):
        one_frame(tmp_path, 1, drawn_on_what_is_stored).target(0)


def test_only_digests_of_files_that_are_turned_differ_from_those_of_their_bytes(tmp_path: Path) -> None:
    """Cached frames of sideways files are not found again; those of all others are."""

    def by_bytes(folder: Path) -> str:
        content = sha256((folder / "train/images/a.png").read_bytes()).hexdigest()
        return sha256(f"{content} source".encode()).hexdigest()

    for orientation in (1, 6):
        folder = tmp_path / str(orientation)
        data = one_frame(folder, orientation)
        assert (data.frame_digest(0) == by_bytes(folder)) == (orientation == 1)
    assert one_frame(tmp_path / "1").digest() != one_frame(tmp_path / "6", 6).digest()


def test_hidden_files_are_passed_over_and_pictures_of_other_formats_are_not_left_out(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "train" / "images" / "._a.png").write_bytes(b"\0\5\x16\7")
    assert len(opened(tmp_path)) == 3
    (tmp_path / "train" / "images" / "d.HEIC").write_bytes(b"anything")
    with pytest.raises(DataError, match=r"expected images \(.png, .jpg, .jpeg\) in .*images, but got d.HEIC, which w"):
        opened(tmp_path)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16])
def test_masks_may_have_1_8_or_16_bits(tmp_path: Path, dtype: type) -> None:
    mask = np.zeros((12, 16), dtype)
    mask[2:5] = 1
    target = one_frame(tmp_path, 1, mask).target(0)
    assert target.dtype == np.uint8
    assert np.array_equal(target, mask.astype(np.uint8))


def test_values_of_16_bits_are_never_cut_to_8(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected classes 0 to 1 or 9 for void, but got 257"):
        one_frame(tmp_path, 1, np.full((12, 16), 257, np.uint16)).target(0)


def test_masks_of_0_and_255_are_explained(tmp_path: Path) -> None:
    data = open_split(
        "folder",
        one_frame_root(tmp_path, np.where(np.arange(192).reshape(12, 16) < 50, 255, 0).astype(np.uint8)),
        "train",
        Camera(),
        Options(class_names=("floor", "wall")),
    )
    with pytest.raises(DataError, match="but got 255; masks hold 0 and 1, so where 255 is the second class, write 1"):
        data.target(0)


def one_frame_root(root: Path, mask: np.ndarray) -> Path:
    one_frame(root, 1, mask)
    return root


def test_a_root_may_lie_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    make(tmp_path / "frames")
    assert len(opened(Path("~/frames"))) == 3
