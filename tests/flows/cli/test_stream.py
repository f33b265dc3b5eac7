import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

from gearnn.problems.segmentation import SemanticSegmentation
from gearnn.streams.fetch import Fetched
from tests.shared.commands import run
from tests.shared.registries import NAME, Registry

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    content = {
        "base": {"name": "drn_d_22_quarter", "num_classes": 9, "train": {"epochs": 1}},
        "data": {"name": "streets", "frames": {"train": 4, "val": 6, "test": 6}, "camera": {"size": [48, 32]}},
        "levels": ["jpeg:quality=10", "jpeg:quality=30"],
        "bound": {"fraction": 0.01},
        "promotion": {"over_base": False},
        "finetune": {"epochs": 1},
        "store": str(tmp_path / "store"),
    }
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def registered(tmp_path: Path, problem: SemanticSegmentation) -> Registry:
    models = Registry(tmp_path, problem)
    for level, names in (("jpeg:quality=10", ["seg"]), ("jpeg:quality=30", ["base.0.1"])):
        models.register(models.adaptor(level, names), 50.0)
    return models


@pytest.fixture
def presentation(tmp_path: Path, plan: Path) -> Path:
    result = run("present", plan, "--output", tmp_path / "p")
    assert result.exit_code == 0, result.stderr
    assert "6 segments" in result.stdout
    assert [path.name for path in sorted((tmp_path / "p").iterdir())] == [
        ".gearnn-written",
        "jpeg-quality-10",
        "jpeg-quality-100",
        "jpeg-quality-30",
        "manifest.mpd",
        "truth",
    ]
    return tmp_path / "p"


@pytest.mark.usefixtures("registered")
def test_a_presentation_streams_with_log_overlays_and_plot(
    tmp_path: Path, presentation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fetched, "throughput", 50_000.0)  # however busy this machine is
    trace = tmp_path / "trace.csv"
    trace.write_text("0,50000\n")
    (presentation / "jpeg-quality-100" / "00003.jpg").unlink()
    out = tmp_path / "out"
    result = run(
        *("stream", presentation / "manifest.mpd", "--base", NAME, "--truth", presentation / "truth"),
        *("--throttle", trace, "--output", out, "--show", "overlays"),
    )
    assert result.exit_code == 0, result.stderr
    assert "5 frames of 6 segments, 1 shifts of gear" in result.stdout
    assert "segment 00003: skipped: http://127.0.0.1" in result.stdout
    assert "skipped: 1 segments, 0 frames" in result.stdout
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [record["representation"] for record in records] == ["jpeg-quality-10", *["jpeg-quality-100"] * 5]
    assert [record["used"] for record in records] == [
        "jpeg:quality=10",
        "pristine",
        "pristine",
        None,
        *["pristine"] * 2,
    ]
    assert all(0 <= record["score"] <= 100 for record in records if not record["skipped"])
    assert Image.open(out / "overlays" / "00000-0.png").size == (48, 32)
    assert len(list((out / "overlays").iterdir())) == 5
    assert Image.open(out / "plot.png").width > 500


@pytest.mark.usefixtures("registered")
def test_a_folder_of_segments_streams_and_masks_are_written(tmp_path: Path, presentation: Path) -> None:
    out = tmp_path / "out"
    result = run("stream", presentation / "jpeg-quality-30", "--base", NAME, "--output", out, "--show", "masks")
    assert result.exit_code == 0, result.stderr
    assert "jpeg:quality=30  6" in " ".join(result.stdout.split("\n")).replace("   ", "  ")
    assert {path.name for path in (out / "masks").iterdir()} == {f"{i:05d}-0.png" for i in range(6)}


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.mp4"], "expected a video file, a folder of segments or a manifest"),
        (["folder", "--show", "all"], "--show: expected none, masks, overlays, but got 'all'"),
        (["folder", "--off-map", "guess"], "off_map: expected error, base, nearest, but got 'guess'"),
        (
            ["folder", "--max-distance", "jpeg"],
            "--max-distance: expected KIND=DISTANCE, such as jpeg=20, but got 'jpeg'",
        ),
        (["folder", "--throttle", "trace.csv"], "--throttle: expected a manifest (.mpd) on this disk"),
        (["folder", "--every", "0"], "every: expected at least 1, but got 0"),
        (["folder", "--truth", "nowhere"], "expected a folder masks"),
        (["folder", "--output", "folder"], "folder/log.jsonl: expected a place for a result, but folder is an input"),
        (
            ["folder", "--max-distance", "jpeg=20", "--max-distance", "jpeg=30"],
            "--max-distance: expected every kind once, but jpeg is given twice",
        ),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    result = run("stream", *arguments, "--base", NAME)
    assert result.exit_code in (1, 2)
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    assert message in lines[0]


@pytest.mark.usefixtures("registered")
def test_a_stream_of_nothing_that_can_be_used_has_status_1(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "1.jpg").write_bytes(b"no image")
    result = run("stream", tmp_path / "folder", "--base", NAME, "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert "segment 1: skipped: " in result.stdout


@pytest.mark.usefixtures("registered")
def test_bundle_lists_what_the_gearbox_holds_and_how_to_serve_it() -> None:
    result = run("bundle", NAME)
    assert result.exit_code == 0, result.stderr
    assert f"{NAME}.gearbox version 1" in result.stdout
    assert f"{NAME}.jpeg-quality-10/1" in result.stdout
    assert f"models serve -m models:/{NAME}.gearbox@champion" in result.stdout


@pytest.mark.usefixtures("registered")
def test_a_stream_replaces_its_own_results_and_nothing_of_the_users(tmp_path: Path, presentation: Path) -> None:
    out, source = tmp_path / "out", presentation / "jpeg-quality-30"
    for _ in range(2):
        result = run("stream", source, "--base", NAME, "--output", out, "--show", "masks")
        assert result.exit_code == 0, result.stderr
    truth = presentation / "truth"
    before = {path: path.read_bytes() for path in truth.rglob("*.png")}
    result = run("stream", source, "--base", NAME, "--truth", truth, "--output", truth, "--show", "masks")
    assert result.exit_code == 2
    assert {path: path.read_bytes() for path in truth.rglob("*.png")} == before
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "plot.png").write_bytes(b"a user's")
    result = run("stream", source, "--base", NAME, "--output", tmp_path / "own")
    assert "own/plot.png: expected a free place or an earlier result, but GearNN did not write this" in result.stderr
    assert [path.read_bytes() for path in (tmp_path / "own").iterdir()] == [b"a user's"], "before any work"


@pytest.mark.usefixtures("registered")
def test_segments_that_share_a_name_are_refused(tmp_path: Path, presentation: Path) -> None:
    source = presentation / "jpeg-quality-30"
    Image.open(source / "00001.jpg").save(source / "00001.PNG")
    result = run("stream", source, "--base", NAME, "--output", tmp_path / "out")
    assert "expected segments of different names, but 00001 stands for two of them" in result.stderr


def test_a_presentation_replaces_itself_and_nothing_else(tmp_path: Path, plan: Path, presentation: Path) -> None:
    assert run("present", plan, "--output", presentation).exit_code == 0
    mask = tmp_path / "data" / "truth" / "masks" / "00000-0.png"
    mask.parent.mkdir(parents=True)
    mask.write_bytes(b"a user's")
    result = run("present", plan, "--output", tmp_path / "data")
    assert result.exit_code == 2
    assert "truth/masks/00000-0.png: expected a free place or an earlier result" in result.stderr
    assert [path for path in (tmp_path / "data").rglob("*") if path.is_file()] == [mask]
