from pathlib import Path

import pytest

from gearnn.errors import DataError, StoreError
from gearnn.store.files import inside


@pytest.mark.parametrize("name", ["a", "a/b.txt", "2024-01-01T12:30:00.png", "..a", "a..b/c", "über"])
def test_a_name_is_a_path_in_its_folder(tmp_path: Path, name: str) -> None:
    assert inside(tmp_path, name, "record") == tmp_path / name


LEADING_OUT = ["..", "../a", "a/../../b", "/a", "//host/a", "\\\\host\\share\\a", "..\\a", "C:a", "c:/a"]
NO_NAMES = ["", ".", "a\0b", "\ud800", "a" * 256, "a/" + "ü" * 128, 5, None, ["a"]]


@pytest.mark.parametrize("name", [*LEADING_OUT, *NO_NAMES])
def test_a_name_that_leads_out_of_its_folder_is_refused(tmp_path: Path, name: object) -> None:
    with pytest.raises(StoreError, match="record: expected the name of a file inside of its folder, but got"):
        inside(tmp_path / "folder", name, "record")


def test_a_link_that_leads_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "out").symlink_to(tmp_path)
    (folder / "circle").symlink_to("circle")
    (folder / "within").symlink_to("other")
    assert inside(folder, "within/a", "archive") == folder / "within" / "a"
    for name in ("out", "out/a", "circle", "circle/a"):
        with pytest.raises(DataError, match="archive: expected the name of a file inside of its folder"):
            inside(folder, name, "archive", DataError)


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "store").symlink_to("disk")
    assert inside(tmp_path / "store", "a", "store") == tmp_path / "store" / "a"


@pytest.mark.parametrize("name", ["a//b", "a/./b", "./a", "a/", "a/.", "a\\\\b", "a\\.\\b"])
def test_a_second_name_of_one_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match="copies: expected the name of a file inside of its folder, but got"):
        inside(tmp_path, name, "copies")
