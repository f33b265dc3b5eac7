import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gearnn.datasets import Camera, Instances, Options, check_frames, open_split, with_truth
from gearnn.datasets.frames import FrameDataset
from gearnn.datasets.inspect import describe_split
from gearnn.datasets.streets import Streets
from gearnn.errors import DataError, PlanError

SIZE = (24, 16)


def folder_with_instances(root: Path, *, empty: tuple[int, ...] = (), frames: int = 3) -> Path:
    """Frames with two objects each: a square of class 1 with number 300, and one of class 2 with number 5."""
    for name in ("images", "masks", "instances"):
        (root / "train" / name).mkdir(parents=True)
    for index in range(frames):
        classes, numbers = np.zeros(SIZE[::-1], np.uint8), np.zeros(SIZE[::-1], np.uint16)
        if index not in empty:
            classes[2:6, 3:8], numbers[2:6, 3:8] = 1, 300
            classes[8:12, 10:20], numbers[8:12, 10:20] = 2, 5
        image = np.random.default_rng(index).integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8)
        Image.fromarray(image).save(root / "train" / "images" / f"{index}.png")
        Image.fromarray(classes).save(root / "train" / "masks" / f"{index}.png")
        Image.fromarray(numbers).save(root / "train" / "instances" / f"{index}.png")
    return root


def open_folder(root: Path, camera: Camera | None = None):  # type: ignore[no-untyped-def]
    options = Options(class_names=("floor", "cat", "dog"))
    return with_truth(open_split("folder", root, "train", camera or Camera(), options), "instances")


def test_instances_come_from_masks_of_classes_and_of_instances(tmp_path: Path) -> None:
    found = open_folder(folder_with_instances(tmp_path)).target(0)
    assert found.labels.tolist() == [2, 1]
    assert found.boxes.tolist() == [[10, 8, 20, 12], [3, 2, 8, 6]]
    assert found.masks.shape == (2, 16, 24)
    assert [mask.sum() for mask in found.masks] == [40, 20]


def test_the_camera_scales_instances_with_the_frame(tmp_path: Path) -> None:
    found = open_folder(folder_with_instances(tmp_path), Camera(size=(12, 8))).target(0)
    assert found.masks.shape == (2, 8, 12)
    assert found.boxes.tolist() == [[5, 4, 10, 6], [1, 1, 4, 3]]


def test_digests_cover_the_instances(tmp_path: Path) -> None:
    root = folder_with_instances(tmp_path)
    plain = open_split("folder", root, "train", Camera(), Options(class_names=("floor", "cat", "dog")))
    before = open_folder(root).digest()
    assert before != plain.digest()
    assert before == open_folder(root).digest()
    Image.fromarray(np.zeros(SIZE[::-1], np.uint16)).save(root / "train" / "instances" / "1.png")
    assert open_folder(root).digest() != before


def test_frames_without_instances_are_named_and_a_split_of_them_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "gearnn"):
        check_frames(open_folder(folder_with_instances(tmp_path / "some", empty=(1,))))
    assert caplog.messages == ["1 of 3 frames have no instance: 1"]
    with pytest.raises(DataError, match="expected instances, but none of the 2 frames has one"):
        check_frames(open_folder(folder_with_instances(tmp_path / "none", empty=(0, 1), frames=2)))


def test_bad_instances_are_named(tmp_path: Path) -> None:
    root = folder_with_instances(tmp_path)
    path = root / "train" / "instances" / "0.png"
    Image.fromarray(np.ones((8, 8), np.uint16)).save(path)
    with pytest.raises(DataError, match=r"0.png: expected the size of its frame, 24x16, but got 8x8"):
        open_folder(root).target(0)
    Image.fromarray(np.ones((16, 24, 3), np.uint8)).save(path)
    with pytest.raises(DataError, match=r"0.png: expected one index a pixel, of at most 16 bits, but got mode RGB"):
        open_folder(root).target(0)
    Image.fromarray(np.ones(SIZE[::-1], np.uint16)).save(path)  # one instance, mostly where the mask says class 0
    with pytest.raises(DataError, match="frame 0: expected classes 1 to 2, but got 0"):
        open_folder(root).target(0)


def test_a_problem_gets_the_truth_that_it_needs_or_an_error(camvid: Path, tmp_path: Path) -> None:
    streets = Streets("train", 2, 0, Camera(size=(48, 32)))
    assert isinstance(with_truth(streets, "instances").target(0), Instances)
    assert with_truth(streets, "classes") is streets
    with pytest.raises(DataError, match="but ImageFolders has classes only; pennfudan and streets have instances"):
        with_truth(open_split("camvid", camvid, "train", Camera()), "instances")
    with pytest.raises(PlanError, match="expected frames with one class a frame as truth, but Streets"):
        with_truth(streets, "class")
    with pytest.raises(PlanError, match="expected a problem's truth among classes, instances, class, but got 'depth'"):
        with_truth(streets, "depth")


def class_folders(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, number in (("train", 3), ("val", 2)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for index in range(number):
                Image.fromarray(rng.integers(0, 256, (16, 20, 3), dtype=np.uint8)).save(
                    root / split / name / f"{index}.png"
                )
    return root


def test_folders_of_classes_are_frames_with_a_class(tmp_path: Path) -> None:
    root = class_folders(tmp_path)
    frames = open_split("class_folders", root, "train", Camera(size=(10, 8)), Options(class_names=("dog", "cat")))
    assert [frames.name(i) for i in range(len(frames))] == ["dog/0", "dog/1", "dog/2", "cat/0", "cat/1", "cat/2"]
    assert [frames.target(i) for i in range(len(frames))] == [0, 0, 0, 1, 1, 1]
    assert frames.frame(0).size == frames.size(0) == (10, 8)
    assert with_truth(frames, "class") is frames
    facts = describe_split(frames)
    assert (facts.counted, facts.class_shares, facts.num_counted) == ("frames", {"dog": 0.5, "cat": 0.5}, 6)
    before = frames.digest()
    (root / "train" / "cat" / "0.png").rename(root / "train" / "dog" / "9.png")
    moved = open_split("class_folders", root, "train", Camera(size=(10, 8)), Options(class_names=("dog", "cat")))
    assert moved.digest() != before


def test_folders_that_are_no_classes_are_named(tmp_path: Path) -> None:
    root = class_folders(tmp_path)
    with pytest.raises(DataError, match=r"expected folders named as data.classes, but got .*train/dog"):
        open_split("class_folders", root, "train", Camera(), Options(class_names=("cat", "cow")))
    with pytest.raises(DataError, match=r"expected the folder .*/test, but it does not exist"):
        open_split("class_folders", root, "test", Camera(), Options(class_names=("cat", "dog")))
    (tmp_path / "void" / "train").mkdir(parents=True)
    with pytest.raises(DataError, match="expected a folder for each of cat, dog in"):
        open_split("class_folders", tmp_path / "void", "train", Camera(), Options(class_names=("cat", "dog")))
    with pytest.raises(PlanError, match="expected frames with classes of pixels as truth, but Class"):
        with_truth(open_split("class_folders", root, "val", Camera(), Options(class_names=("cat", "dog"))), "classes")


def test_a_split_is_described_by_its_instances(tmp_path: Path) -> None:
    facts = describe_split(open_folder(folder_with_instances(tmp_path, empty=(2,))))
    assert (facts.counted, facts.num_counted, facts.empty) == ("instances", 4, ("2",))
    assert facts.class_shares == {"floor": 0, "cat": 0.5, "dog": 0.5}


def folder_with_masks(root: Path, *values: int) -> FrameDataset:
    """Two-class masks with these values; 255 is void."""
    for part in ("images", "masks"):
        (root / "train" / part).mkdir(parents=True)
    for index, value in enumerate(values):
        mask = np.zeros(SIZE[::-1], np.uint8)
        mask[:2] = value
        Image.new("RGB", SIZE).save(root / "train" / "images" / f"{index}.png")
        Image.fromarray(mask).save(root / "train" / "masks" / f"{index}.png")
    return open_split("folder", root, "train", Camera(), Options(class_names=("floor", "cat"), ignore_index=255))


def test_masks_whose_second_class_is_called_void_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"all 2 masks hold only floor and void \(255\); if 255 is the second class, write 1 there"
    ):
        check_frames(folder_with_masks(tmp_path / "a", 255, 0))
    check_frames(folder_with_masks(tmp_path / "b", 255, 1))


def test_classes_that_no_truth_has_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "gearnn"):
        check_frames(folder_with_masks(tmp_path, 0, 0))
    assert caplog.messages == ["no truth of 2 frames has the classes cat"]


def test_truths_of_users_may_have_any_number_for_void(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    theirs = folder_with_masks(tmp_path, 1, 0)
    theirs.ignore_index = -100
    theirs.target = lambda index: np.array([[0, -100], [1, 70000]])  # type: ignore[method-assign]
    check_frames(theirs)
    assert caplog.messages == []
