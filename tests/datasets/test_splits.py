"""Slices of splits, and what splits have in common."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gearnn.datasets import Camera, with_truth
from gearnn.datasets.class_folders import open_class_folders
from gearnn.datasets.folder import open_folder
from gearnn.datasets.overlap import Overlap, Seen, overlaps
from gearnn.datasets.splits import Split, sliced
from gearnn.datasets.streets import Streets
from gearnn.errors import DataError


class Named(Streets):
    """Scenes under the names of a video's frames."""

    def __init__(self, names: list[str]) -> None:
        super().__init__("train", len(names), 0, Camera(size=(48, 32)))
        self.names = names

    def name(self, index: int) -> str:
        return self.names[index]

    def sequence(self, index: int) -> str:
        return self.names[index].rpartition("_")[0]


def names(dataset: Any) -> list[str]:
    return [dataset.name(index) for index in range(len(dataset))]


def cut(dataset: Any, text: str) -> list[str]:
    return names(sliced(dataset, Split.parse(text)))


@pytest.mark.parametrize("text", ["train", "val[:50%]", "val[50%:]", "a-b[10:-20]", "train[:]"])
def test_a_split_is_written_as_it_was_read(text: str) -> None:
    assert str(Split.parse(text)) == text.removesuffix("[:]")


@pytest.mark.parametrize("text", ["", "val[50%]", "val[:half]", "val[:50%", "[:50%]", "val[:150%]", "val[0.5:]"])
def test_what_is_no_split_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected (a split, or a slice such as|shares up to 100%)"):
        Split.parse(text)


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [("s[:3]", 0, 3), ("s[3:]", 3, 10), ("s[2:-2]", 2, 8), ("s[-4:]", 6, 10), ("s[:25%]", 0, 2), ("s[-20%:]", 8, 10)],
)
def test_single_frames_are_cut_where_it_says(text: str, first: int, last: int) -> None:
    scenes = Streets("s", 10, 0, Camera())
    assert cut(scenes, text) == names(scenes)[first:last]


SEQUENCES = Named([f"{s}_{i:03}" for s, n in (("a", 5), ("b", 20), ("c", 8), ("d", 7)) for i in range(n)])


@pytest.mark.parametrize("share", [10, 33, 50, 67, 90])
def test_two_slices_at_one_share_are_whole_and_apart_and_no_sequence_is_in_both(share: int) -> None:
    first, second = (cut(SEQUENCES, text) for text in (f"v[:{share}%]", f"v[{share}%:]"))
    assert first + second == names(SEQUENCES)
    assert not {n[0] for n in first} & {n[0] for n in second}
    assert abs(len(first) - 0.4 * share) <= 10


@pytest.mark.parametrize("text", ["v[:1%]", "v[99%:]", "v[40:]"])
def test_a_slice_without_frames_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="it is empty; v has 40 in 4 sequences, between which shares are cut"):
        cut(SEQUENCES, text)


def test_names_without_sequences_are_cut_by_number() -> None:
    dataset = Named([f"frame_{i:03}" for i in range(10)])
    assert len(cut(dataset, "v[:30%]")) == 3


def test_every_class_is_cut_for_itself(tmp_path: Path) -> None:
    for name, number in (("cat", 8), ("dog", 4)):
        for i in range(number):
            path = tmp_path / "all" / name / f"img_{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (i, 0, len(name))).save(path)
    dataset = open_class_folders(tmp_path, "all", Camera(), class_names=("cat", "dog"))
    half = sliced(dataset, Split.parse("all[:50%]"))
    assert names(half) == [f"cat/img_{i}" for i in range(4)] + [f"dog/img_{i}" for i in range(2)]
    assert [half.target(i) for i in range(6)] == [0] * 4 + [1] * 2


def test_a_slice_is_those_frames_with_their_truth() -> None:
    whole = with_truth(Streets("s", 6, 0, Camera()), "instances")
    part = sliced(whole, Split.parse("s[2:4]"))
    assert (part.name(0), part.size(1), part.sequence(0)) == (whole.name(2), whole.size(3), whole.sequence(2))
    assert np.array_equal(part.frame(0), whole.frame(2))
    assert np.array_equal(part.target(1).masks, whole.target(3).masks)
    assert np.array_equal(part.instances(1), whole.instances(3))  # type: ignore[attr-defined]
    assert not hasattr(part, "num_frames")  # of the whole one, which would be wrong here
    assert getattr(sliced(Named(["a_1", "a_2"]), Split.parse("s[:1]")), "truth", "none of its own") == "none of its own"
    assert part.frame_digest(1) == whole.frame_digest(3)
    assert part.class_names == whole.class_names
    assert len({dataset.digest() for dataset in (whole, part, sliced(whole, Split.parse("s[1:4]")))}) == 3


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Splits of which val has a frame of train, a copy of another as JPEG, and one of a sequence of it."""
    scenes = Streets("s", 8, 0, Camera())
    content: dict[str, list[tuple[str, Image.Image]]] = {
        "train": [(f"one_{i}", scenes.frame(i)) for i in range(3)] + [("two_0", scenes.frame(3))],
        "val": [("copy_0", scenes.frame(0)), ("squeezed_0", scenes.frame(1)), ("one_9", scenes.frame(4))],
        "test": [("three_0", scenes.frame(5)), ("three_1", scenes.frame(6))],
    }
    for split, listed in content.items():
        for kind in ("images", "masks"):
            (tmp_path / split / kind).mkdir(parents=True)
        for name, image in listed:
            if name == "squeezed_0":
                image.resize((96, 64)).resize(image.size).save(tmp_path / split / "images" / f"{name}.jpg", quality=30)
            else:
                image.save(tmp_path / split / "images" / f"{name}.png")
            Image.new("L", image.size).save(tmp_path / split / "masks" / f"{name}.png")
    return tmp_path


def test_frames_that_are_in_two_splits_are_found(frames: Path) -> None:
    options: dict[str, Any] = {"class_names": ("a",), "ignore_index": None}
    seen = {split: Seen(open_folder(frames, split, Camera(), **options)) for split in ("train", "val", "test")}
    found = overlaps(seen)
    assert found == [
        Overlap(
            first="train",
            second="val",
            same=(("one_0", "copy_0"),),
            near=(("one_1", "squeezed_0"),),
            sequences=("one",),
            num_frames=(3, 1),
        )
    ]
    assert str(found[0]) == (
        "val and train have 1 frame in common: one_0 and copy_0; val has 1 frame all but the same as in train: one_1 "
        "and squeezed_0; val shares the sequence one with train (1 and 3 frames)"
    )


def test_scenes_of_their_own_have_nothing_in_common() -> None:
    seen = {split: Seen(Streets(split, 60, 0, Camera())) for split in ("train", "val", "test")}
    assert overlaps(seen) == []


@pytest.mark.parametrize(
    ("name", "sequence"),
    [("0001TP_006690", "0001TP"), ("Seq05VD_f00000", "Seq05VD"), ("runA0001", "runA"), ("photo12", "photo"),
     ("000123", ""), ("left", "left")],
)  # fmt: skip
def test_a_sequence_is_the_name_without_its_number(tmp_path: Path, name: str, sequence: str) -> None:
    (tmp_path / "s").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "s" / f"{name}.png")
    assert open_folder(tmp_path, "s", Camera(), class_names=("a",), ignore_index=None).sequence(0) == sequence


def test_frames_of_one_colour_are_not_taken_for_each_other(tmp_path: Path) -> None:
    for split, colour in (("train", (0, 0, 0)), ("val", (200, 0, 0))):
        (tmp_path / split).mkdir()
        Image.new("RGB", (32, 32), colour).save(tmp_path / split / f"{split}.png")
    seen = {
        s: Seen(open_folder(tmp_path, s, Camera(), class_names=("a",), ignore_index=None)) for s in ("train", "val")
    }
    assert overlaps(seen) == []


def test_halves_of_one_sequence_say_so() -> None:
    dataset = Named([f"drive_{i:03}" for i in range(10)])
    seen = {text: Seen(sliced(dataset, Split.parse(text))) for text in ("v[:50%]", "v[50%:]")}
    assert "v[50%:] shares the sequence drive with v[:50%]" in str(overlaps(seen)[0])
