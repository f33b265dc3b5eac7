import errno
import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from gearnn.errors import OutputError, StoreError
from gearnn.store.files import UNFINISHED
from gearnn.store.outputs import LIST, Outputs


def put(outputs: Outputs, name: str, content: str) -> None:
    with outputs.fresh(name) as path:
        path.write_text(content)


def listed(folder: Path) -> list[tuple[str, str]]:
    entries = [json.loads(line) for line in (folder / LIST).read_text().split("\n") if line]
    return [(entry["name"], entry["sha256"]) for entry in entries]


def fill_the_disk(outputs: Outputs, name: str) -> None:
    with outputs.fresh(name) as path:
        assert path.suffix == Path(name).suffix
        path.write_text("hal")
        raise OSError(errno.ENOSPC, "No space left on device")


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_command_may_replace_its_own_results_and_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "theirs.png").write_text("a user's")
    for content in ("first", "second"):
        outputs = Outputs(tmp_path)
        outputs.check("mine.png", "masks/mine.png")
        outputs.check_folder("masks")
        put(outputs, "mine.png", content)
        put(outputs, "masks/mine.png", content)
        refused = r"theirs.png: expected a free place or an earlier result, but GearNN did not write this file"
        with pytest.raises(OutputError, match=refused):
            outputs.check("theirs.png")
        with pytest.raises(OutputError, match=refused), outputs.fresh("theirs.png"):
            pass
    assert listed(tmp_path) == [
        (name, sha256(content).hexdigest())
        for content in (b"first", b"second")
        for name in ("mine.png", "masks/mine.png")
    ]
    found = contents(tmp_path)
    del found[LIST]
    assert found == {"theirs.png": "a user's", "mine.png": "second", "masks/mine.png": "second"}
    (tmp_path / "masks" / "drawn.png").write_text("a user's")
    with pytest.raises(OutputError, match=r"masks/drawn.png: .* GearNN did not write this file"):
        Outputs(tmp_path).check_folder("masks")


def test_nothing_is_made_before_the_first_result(tmp_path: Path) -> None:
    Outputs(tmp_path / "out").check("a.png")
    assert not (tmp_path / "out").exists()


def test_a_result_never_takes_the_place_of_an_input_not_even_of_an_earlier_result(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path)
    put(outputs, "a.png", "a result")
    again = Outputs(tmp_path, [tmp_path / "sub" / ".." / "a.png", tmp_path / "a.png", "nowhere"])
    with pytest.raises(OutputError, match=r"a.png: expected a place for a result, but it is the input .*a.png; cho"):
        again.check("a.png")
    with pytest.raises(OutputError, match="is an input; choose another"):
        Outputs(tmp_path, [tmp_path]).check("new.png")
    Outputs(tmp_path / "below", [tmp_path]).check("new.png")
    assert (tmp_path / "a.png").read_text() == "a result"


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_results_are_never_written_through_links(tmp_path: Path, link: Callable[[Path, Path], None]) -> None:
    source = tmp_path / "photo.png"
    source.write_text("a user's")
    out = tmp_path / "out"
    out.mkdir()
    link(out / "a.png", source)
    with pytest.raises(OutputError, match="it is the input"), Outputs(out, [source]).fresh("a.png"):
        pass
    with pytest.raises(OutputError, match="GearNN did not write this file"), Outputs(out).fresh("a.png"):
        pass
    (out / "a.png").unlink()
    put(Outputs(out), "a.png", "a result")
    (out / "a.png").unlink()
    link(out / "a.png", source)
    with pytest.raises(OutputError, match=r"no longer the file that GearNN wrote|was changed since GearNN wrote it"):
        Outputs(out).check("a.png")
    source.write_text("a result")  # whose place may be taken, but which is not written to
    if link is Path.hardlink_to:
        put(Outputs(out), "a.png", "a result")
        assert not (out / "a.png").samefile(source)
    (out / "b.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="GearNN did not write this file"):
        Outputs(out).check("b.png")


def test_two_results_of_one_name_are_refused_whatever_the_case(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path)
    with pytest.raises(OutputError, match=r"A.png: expected one result of this name, but there would be two"):
        outputs.check("a.png", "A.png")
    put(outputs, "e\u0301.png", "")
    with pytest.raises(OutputError, match="expected one result of this name"), outputs.fresh("\u00c9.png"):
        pass


def test_a_list_that_a_killed_run_did_not_finish_is_read(tmp_path: Path) -> None:
    put(Outputs(tmp_path), "a\nb.png", "")
    with (tmp_path / LIST).open("a") as file:
        file.write('\n{"name": "brok')
    put(Outputs(tmp_path), "c.png", "")
    Outputs(tmp_path).check("a\nb.png", "c.png")


def test_a_folder_that_is_a_file_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(StoreError, match="expected to be able to write there"):
        put(Outputs(tmp_path / "out"), "a.png", "")


def test_a_result_that_was_changed_by_hand_is_not_replaced(tmp_path: Path) -> None:
    for content in ("first", "second"):
        put(Outputs(tmp_path), "masks/a.png", content)
    (tmp_path / "masks" / "a.png").write_text("corrected")
    outputs = Outputs(tmp_path)
    refused = r"masks/a.png: expected a free .* this file was changed since GearNN wrote it .* or move it away$"
    for look in (lambda: outputs.check("masks/a.png"), lambda: outputs.check_folder("masks")):
        with pytest.raises(OutputError, match=refused):
            look()
    with pytest.raises(OutputError, match=refused):
        put(outputs, "masks/a.png", "third")
    assert (tmp_path / "masks" / "a.png").read_text() == "corrected"
    (tmp_path / "masks" / "a.png").write_text("first")  # an earlier result, put back
    put(Outputs(tmp_path), "masks/a.png", "third")
    assert (tmp_path / "masks" / "a.png").read_text() == "third"


def test_results_on_a_list_that_knows_names_only_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / LIST).write_text('"a.png"\n"b.png"\n')
    (tmp_path / "a.png").write_text("whose?")
    with pytest.raises(OutputError, match=r"a.png: .* is of an earlier version, and does not say whether this"):
        Outputs(tmp_path).check("a.png")
    put(Outputs(tmp_path), "b.png", "a result")
    put(Outputs(tmp_path), "b.png", "another")
    assert (tmp_path / "a.png").read_text() == "whose?"


@pytest.mark.parametrize("line", ["5", "null", "[]", '{"name": "a.png"}', '{"name": 5, "sha256": ""}', "[" * 100_000])
def test_lines_of_a_damaged_list_say_nothing(tmp_path: Path, line: str) -> None:
    (tmp_path / LIST).write_text(line)
    (tmp_path / "a.png").write_text("whose?")
    with pytest.raises(OutputError, match="GearNN did not write this file"):
        Outputs(tmp_path).check("a.png")


def test_what_cannot_be_written_whole_leaves_the_earlier_result(tmp_path: Path) -> None:
    put(Outputs(tmp_path), "base.safetensors", "of yesterday")
    with pytest.raises(StoreError, match=r"base.safetensors: expected to be able to write there.*free some space"):
        fill_the_disk(Outputs(tmp_path), "base.safetensors")
    assert contents(tmp_path).keys() == {LIST, "base.safetensors"}
    put(Outputs(tmp_path), "base.safetensors", "of today")
    assert (tmp_path / "base.safetensors").read_text() == "of today"


def test_what_a_killed_run_left_unfinished_holds_up_nobody(tmp_path: Path) -> None:
    put(Outputs(tmp_path), "masks/a.png", "a result")
    (tmp_path / "masks" / f"{UNFINISHED}12.png").write_text("ha")
    Outputs(tmp_path).check_folder("masks")


def test_a_log_grows_in_its_place_and_is_the_users_once_it_was_changed(tmp_path: Path) -> None:
    for content in ("first", "second", "first"):
        outputs = Outputs(tmp_path)
        with outputs.growing("log.jsonl") as path:
            assert (path, path.read_text()) == (tmp_path / "log.jsonl", "")
            path.write_text(content)
            Outputs(tmp_path).check("log.jsonl")  # as if this run had been killed here
    (tmp_path / "log.jsonl").write_text("first, noted by hand")
    with pytest.raises(OutputError, match="was changed since"), Outputs(tmp_path).growing("log.jsonl"):
        pass
