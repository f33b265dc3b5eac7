from collections.abc import Callable
from pathlib import Path

import pytest

from gearnn.errors import OutputError, StoreError
from gearnn.outputs import LIST, Outputs


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_command_may_replace_its_own_results_and_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "theirs.png").write_text("a user's")
    for content in ("first", "second"):
        outputs = Outputs(tmp_path)
        outputs.check("mine.png", "masks/mine.png")
        outputs.check_folder("masks")
        outputs.fresh("mine.png").write_text(content)
        outputs.fresh("masks/mine.png").write_text(content)
        for look in (outputs.check, outputs.fresh):
            with pytest.raises(OutputError, match=r"theirs.png: expected a free place or an earlier result, but Gea"):
                look("theirs.png")
    found = contents(tmp_path)
    assert found.pop(LIST) == '"mine.png"\n"masks/mine.png"\n'
    assert found == {"theirs.png": "a user's", "mine.png": "second", "masks/mine.png": "second"}
    (tmp_path / "masks" / "drawn.png").write_text("a user's")
    with pytest.raises(OutputError, match=r"masks/drawn.png: .* GearNN did not write this file"):
        Outputs(tmp_path).check_folder("masks")


def test_nothing_is_made_before_the_first_result(tmp_path: Path) -> None:
    Outputs(tmp_path / "out").check("a.png")
    assert not (tmp_path / "out").exists()


def test_a_result_never_takes_the_place_of_an_input_not_even_of_an_earlier_result(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path)
    outputs.fresh("a.png").write_text("a result")
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
    with pytest.raises(OutputError, match="it is the input"):
        Outputs(out, [source]).fresh("a.png")
    with pytest.raises(OutputError, match="GearNN did not write this file"):
        Outputs(out).fresh("a.png")
    (out / LIST).write_text('"a.png"\n')  # as if a result had been replaced by a link
    Outputs(out).fresh("a.png").write_text("a result")
    assert source.read_text() == "a user's"
    assert not (out / "a.png").is_symlink()
    (out / "b.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="GearNN did not write this file"):
        Outputs(out).check("b.png")


def test_two_results_of_one_name_are_refused_whatever_the_case(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path)
    with pytest.raises(OutputError, match=r"A.png: expected one result of this name, but there would be two"):
        outputs.check("a.png", "A.png")
    outputs.fresh("e\u0301.png").write_text("")
    with pytest.raises(OutputError, match="expected one result of this name"):
        outputs.fresh("\u00c9.png")


def test_a_list_that_a_killed_run_did_not_finish_is_read(tmp_path: Path) -> None:
    Outputs(tmp_path).fresh("a\nb.png").write_text("")
    with (tmp_path / LIST).open("a") as file:
        file.write('"brok')
    Outputs(tmp_path).check("a\nb.png")


def test_a_folder_that_is_a_file_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(StoreError, match="expected to be able to write there"):
        Outputs(tmp_path / "out").fresh("a.png")
