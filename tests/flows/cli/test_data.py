import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner, Result

from flows.cli.app import app
from gearnn.datasets import Camera, DistortedDataset
from gearnn.datasets.streets import Streets
from gearnn.levels import DistortionLevel

pytestmark = pytest.mark.filterwarnings("ignore")  # of Prefect and MLflow


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def plan(tmp_path: Path, camvid: Path) -> Path:
    return write(tmp_path, camvid)


def write(folder: Path, camvid: Path, **changes: Any) -> Path:
    content = {
        "base": {"name": "drn_d_22_quarter", "num_classes": 11, "train": {"epochs": 1}},
        "data": {"name": "camvid", "root": str(camvid)},
        "levels": ["jpeg:quality=10", "resolution:0.5", "brightness:factor=0.3"],
        "store": str(folder / "store"),
    }
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(content | changes))
    return path


def test_check_counts_measures_and_draws(plan: Path, tmp_path: Path) -> None:
    result = run("data", "check", plan, "--output", tmp_path / "sheets")
    assert result.exit_code == 0, result.output
    assert re.search(r"val +promote +3 .*\n *test +test +3 ", result.output)
    assert "48x36" in result.output
    assert "jpeg:quality=10" in result.output
    assert "24x18" in result.output
    assert "absent: " in result.output
    assert "bicyclist" in result.output
    for slug in ("pristine", "jpeg-quality-10", "resolution-scale-0p5", "brightness-factor-0p3"):
        with Image.open(tmp_path / "sheets" / f"{slug}.png") as sheet:
            assert sheet.width == 1320


def test_contact_sheets_replace_each_other_and_no_file_of_the_users(plan: Path, tmp_path: Path) -> None:
    (tmp_path / "jpeg-quality-10.png").write_bytes(b"a user's")
    result = run("data", "check", plan, "--output", tmp_path)
    assert result.exit_code == 2
    assert "jpeg-quality-10.png: expected a free place or an earlier result" in result.stderr
    assert not (tmp_path / "pristine.png").exists()
    assert (tmp_path / "jpeg-quality-10.png").read_bytes() == b"a user's"
    assert [run("data", "check", plan, "--output", tmp_path / "sheets").exit_code for _ in range(2)] == [0, 0]


def test_cleaning_removes_nothing_but_distorted_frames(tmp_path: Path) -> None:
    theirs = tmp_path / "footage" / "frames" / "drive" / "0001.png"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"a user's")
    result = run("cache", "clean", "--store", tmp_path / "footage")
    assert result.exit_code == 2
    assert "0001.png: expected nothing but distorted frames in" in result.stderr
    assert theirs.read_bytes() == b"a user's"


def test_labels_of_another_size_are_told(plan: Path, camvid: Path) -> None:
    Image.new("L", (20, 20)).save(camvid / "trainannot" / "001.png")
    result = run("data", "check", plan)
    assert result.exit_code == 2
    assert "trainannot/001.png: expected the size of its frame, 48x36, but got 20x20" in result.stderr


@pytest.mark.parametrize("command", [("data", "check"), ("cache", "fill"), ("adapt",)])
def test_frames_that_a_codec_refuses_stop_every_command_before_work(
    tmp_path: Path, camvid: Path, command: tuple[str, ...]
) -> None:
    data = {"name": "camvid", "root": str(camvid), "camera": {"size": [45, 36]}}
    result = run(*command, write(tmp_path, camvid, data=data, levels=["h264:crf=23"]))
    assert result.exit_code == 2
    for part in ("level h264:crf=23", "frame 000", "expected frames with an even width", "got 45x36", "camera.size"):
        assert part in result.stderr


def test_every_size_of_frame_is_tried_at_every_level(tmp_path: Path, camvid: Path) -> None:
    for folder, mode in (("val", "RGB"), ("valannot", "L")):
        Image.new(mode, (51, 36)).save(camvid / folder / "002.png")
    result = run("cache", "fill", write(tmp_path, camvid, levels=["h264:crf=23"]))
    assert result.exit_code == 2
    assert "level h264:crf=23: frame 002: h264: expected frames with an even width" in result.stderr


def test_frames_of_several_sizes_are_told_before_training(tmp_path: Path, camvid: Path) -> None:
    for folder, mode in (("train", "RGB"), ("trainannot", "L")):
        Image.new(mode, (50, 36)).save(camvid / folder / "002.png")
    result = run("adapt", write(tmp_path, camvid, levels=["jpeg:quality=10"]))
    assert result.exit_code == 2
    assert "for batches of 8, but the split train of camvid has 2 sizes from 48x36 to 50x36" in result.stderr
    assert "set data.camera.size, or batch_size: 1" in result.stderr


def test_the_cache_is_filled_shown_and_cleaned(plan: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    result = run("cache", "fill", plan)
    assert result.exit_code == 0, result.output
    assert "36 frames made" in result.output
    assert "0 frames made" in run("cache", "fill", plan).output
    shown = run("cache", "show", plan).output
    assert run("cache", "show", "--store", store).output == shown
    assert "jpeg-quality-10        9" in shown
    assert "all                    36" in shown
    cleaned = run("cache", "clean", "--store", store, "--level", "jpeg:quality={10,20}", "--level", "resolution:0.5")
    assert "removed 18 frames" in cleaned.output
    assert "no frames of jpeg-quality-20 in" in cleaned.output
    assert "removed 18 frames" in run("cache", "clean", "--store", store, "--copies").output
    assert "all    0       0 bytes" in run("cache", "show", "--store", store).output


def test_a_store_that_is_not_there_is_told(tmp_path: Path, plan: Path) -> None:
    for arguments in (("--store", tmp_path / "none"), (plan,)):
        result = run("cache", "show", *arguments)
        assert result.exit_code == 2
        assert "expected a store, but there is none" in result.stderr
    (tmp_path / "file").write_text("")
    result = run("cache", "fill", write(tmp_path, tmp_path / "camvid", store=str(tmp_path / "file")))
    assert "expected to be able to write there, but got: Not a directory; choose a folder" in result.stderr


def test_a_level_that_is_none_is_told_when_cleaning(tmp_path: Path) -> None:
    result = run("cache", "clean", "--store", tmp_path, "--level", "jpeg:quality=500")
    assert result.exit_code == 2
    assert "expected quality to be an integer from 1 to 100" in result.stderr


def test_fetching_what_cannot_be_fetched_says_what_to_do(tmp_path: Path) -> None:
    result = run("data", "fetch", "cityscapes", "--to", tmp_path)
    assert result.exit_code == 2
    assert "needs a login at cityscapes-dataset.com" in result.stderr
    result = run("data", "fetch", "pennfudan", "--to", tmp_path, "--archive", tmp_path / "none.zip")
    assert "none.zip: no such file" in result.stderr


@pytest.mark.usefixtures("prefect_server")
def test_adaptors_carry_what_senses_their_levels(tmp_path: Path, camvid: Path) -> None:
    levels = ["brightness:factor={0.2,3}", "resolution:0.5+jpeg:quality=20"]
    plan = write(
        tmp_path,
        camvid,
        levels=levels,
        bound={"fraction": 0.02},
        finetune={"epochs": 1},
        promotion={"over_base": False},
    )
    result = run("adapt", plan)
    assert result.exit_code == 0, result.output
    dark = DistortedDataset(Streets("val", 1, 5, Camera(size=(48, 36))), DistortionLevel.parse("brightness:factor=0.2"))
    (tmp_path / "dark.png").write_bytes(dark.encoded(0))
    name = "drn_d_22_quarter-camvid"
    blind = run("sense", tmp_path / "dark.png")
    assert "give the level instead" in blind.stderr
    seeing = run("sense", tmp_path / "dark.png", "--base", name, "--distortion", "brightness")
    assert "dark.png: brightness:factor=0.2" in seeing.stdout
    used = run("infer", name, tmp_path / "dark.png", "--distortion", "brightness", "--output", tmp_path / "masks")
    assert "sensed brightness:factor=0.2 (misfit " in used.stdout
    assert "used brightness:factor=0.2" in used.stdout
    table = run("sensing", plan)
    assert table.exit_code == 0, table.output
    assert "brightness: frames by the gear that sensing chose" in table.output
    assert "resolution+jpeg: frames by the gear that sensing chose" in table.output
    together = run("sensing", plan, "--together").output
    assert "all kinds: frames by the gear that sensing chose" in together
    assert "frames by gear" in together
    lines = [line for line in table.output.splitlines() if line.startswith(("resolution", "pristine"))]
    assert any("resolution:scale=0.5+jpeg:quality=20" in line and "100 %" in line for line in lines)


@pytest.mark.parametrize(
    "command", ["data", "cache", "data check", "data fetch", "cache fill", "cache show", "sensing"]
)
def test_every_command_explains_itself(command: str) -> None:
    result = run(*command.split(), "--help")
    assert result.exit_code == 0
    assert "Usage" in result.output
