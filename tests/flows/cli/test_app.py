import re
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import Result

from gearnn.distortions import encode
from gearnn.models import load_model, save_checkpoint
from tests.shared.commands import run
from tests.shared.registries import NAME, Registry

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def plan(tmp_path: Path, camvid: Path) -> dict[str, Any]:
    """A plan that is right in everything; tests break one thing."""
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "base.safetensors", load_model("drn_d_22_quarter", 11))
    return {
        "base": {"name": "drn_d_22_quarter", "num_classes": 11, "checkpoint": str(tmp_path / "base.safetensors")},
        "data": {"name": "camvid", "root": str(camvid)},
        "levels": ["jpeg:quality=5"],
        "bound": {"fraction": 0.01},
        "finetune": {"epochs": 1, "batch_size": 2},
        "promotion": {"over_base": False},  # so little training need not beat the base
        "store": str(tmp_path / "store"),
        "workers": 1,
    }


def adapt(tmp_path: Path, content: dict[str, Any]) -> Result:
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(content))
    return run("adapt", path)


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test in which the flow is so much as started."""

    def started(*_: object) -> None:
        pytest.fail("the flow was started")

    monkeypatch.setattr("flows.adapt.adapt", started)


def fails_before_training(result: Result, tmp_path: Path, status: int, *parts: str) -> None:
    """One line that names what is wrong, the exit status, and nothing trained."""
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if not line.startswith("no truth of ")]  # toy frames lack some classes
    assert len(errors) == 1, result.stderr
    assert errors[0].startswith("error: ")
    for part in parts:
        assert part in errors[0]
    assert result.exit_code == status
    assert not list((tmp_path / "store").glob("records/full_finetune/*"))


@pytest.mark.usefixtures("no_training")
def test_an_unknown_key(tmp_path: Path, plan: dict[str, Any]) -> None:
    plan["finetune"]["epoch"] = 3
    fails_before_training(
        adapt(tmp_path, plan), tmp_path, 2, "plan.yaml", "unknown key finetune.epoch, did you mean epochs"
    )


@pytest.mark.usefixtures("no_training")
def test_a_wrong_type(tmp_path: Path, plan: dict[str, Any]) -> None:
    plan["seed"] = "zero"
    fails_before_training(adapt(tmp_path, plan), tmp_path, 2, "seed: expected a valid integer", "'zero'")


@pytest.mark.usefixtures("no_training")
def test_a_level_out_of_range(tmp_path: Path, plan: dict[str, Any]) -> None:
    plan["levels"] = ["jpeg:quality=0"]
    fails_before_training(
        adapt(tmp_path, plan), tmp_path, 2, "expected quality to be an integer from 1 to 100, but got 0"
    )


@pytest.mark.usefixtures("no_training")
def test_a_missing_plan(tmp_path: Path) -> None:
    fails_before_training(run("adapt", tmp_path / "none.yaml"), tmp_path, 2, "none.yaml: no such file")


@pytest.mark.usefixtures("no_training")
def test_a_bound_too_small_for_any_layer(tmp_path: Path, plan: dict[str, Any]) -> None:
    plan["bound"] = {"values": 3}
    fails_before_training(adapt(tmp_path, plan), tmp_path, 2, "bound", "3 values", "smallest layer", "base.0.1")


@pytest.mark.usefixtures("no_training")
def test_a_missing_folder(tmp_path: Path, plan: dict[str, Any]) -> None:
    plan["data"]["root"] = str(tmp_path / "nowhere")
    fails_before_training(adapt(tmp_path, plan), tmp_path, 2, "expected the folder", "nowhere/train")


@pytest.mark.usefixtures("no_training")
def test_an_image_without_its_label(tmp_path: Path, plan: dict[str, Any], camvid: Path) -> None:
    (camvid / "valannot" / "002.png").unlink()
    fails_before_training(adapt(tmp_path, plan), tmp_path, 2, "val/002.png has no label")


@pytest.mark.usefixtures("no_training")
def test_a_class_out_of_range(tmp_path: Path, plan: dict[str, Any], camvid: Path) -> None:
    Image.new("L", (48, 36), 200).save(camvid / "trainannot" / "001.png")
    fails_before_training(adapt(tmp_path, plan), tmp_path, 2, "trainannot/001.png", "but got 200")


@pytest.mark.usefixtures("no_training")
def test_a_truncated_png(tmp_path: Path, plan: dict[str, Any], camvid: Path) -> None:
    frame = camvid / "val" / "000.png"
    frame.write_bytes(frame.read_bytes()[:500])
    fails_before_training(adapt(tmp_path, plan), tmp_path, 2, "val/000.png", "expected a readable image")


@pytest.mark.usefixtures("no_training")
def test_a_checkpoint_of_another_architecture(tmp_path: Path, plan: dict[str, Any]) -> None:
    plan["base"]["name"] = "drn_d_22"
    fails_before_training(adapt(tmp_path, plan), tmp_path, 2, "base.safetensors", "does not fit drn_d_22", "should be")


@pytest.mark.usefixtures("no_training")
def test_a_pickle_instead_of_safetensors(tmp_path: Path, plan: dict[str, Any]) -> None:
    torch.save({"a": object()}, tmp_path / "base.safetensors")
    fails_before_training(adapt(tmp_path, plan), tmp_path, 2, "base.safetensors", "expected a safetensors file")


@pytest.mark.usefixtures("no_training")
def test_a_class_count_that_contradicts_the_data(tmp_path: Path, plan: dict[str, Any]) -> None:
    save_checkpoint(tmp_path / "base.safetensors", load_model("drn_d_22_quarter", 9))
    plan["base"]["num_classes"] = 9
    fails_before_training(adapt(tmp_path, plan), tmp_path, 2, "base.num_classes: expected 11, as camvid has, but got 9")


@pytest.mark.usefixtures("no_training")
def test_a_device_that_is_not_there(tmp_path: Path, plan: dict[str, Any]) -> None:
    plan["device"] = "cuda:7"
    fails_before_training(
        adapt(tmp_path, plan), tmp_path, 2, "device: expected one that this machine has, but got 'cuda:7'"
    )


@pytest.mark.usefixtures("no_training")
def test_a_tracking_server_that_does_not_answer(
    tmp_path: Path, plan: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    fails_before_training(adapt(tmp_path, plan), tmp_path, 1, "MLflow at http://127.0.0.1:9: expected it to answer")


@pytest.mark.usefixtures("prefect_server")
def test_a_run_prints_its_table_and_where_to_look_next(tmp_path: Path, plan: dict[str, Any]) -> None:
    result = adapt(tmp_path, plan)
    assert result.exit_code == 0, result.output
    for part in (
        "jpeg:quality=5",
        "clean fine-tune",
        "the base scores",
        "report:",
        "mlflow ui --backend-store-uri",
        "gearnn infer",
    ):
        assert part in result.output
    listed = run("adaptors", "--distortion", "jpeg")
    assert "drn_d_22_quarter-camvid.jpeg-quality-5" in listed.output


@pytest.mark.usefixtures("prefect_server")
def test_an_adaptor_that_does_not_beat_the_base_stays_challenger_unless_the_plan_says_otherwise(
    tmp_path: Path, plan: dict[str, Any]
) -> None:
    plan["promotion"] = {"margin": 100}  # percentage points, which no training reaches
    result = adapt(tmp_path, plan)
    name = "drn_d_22_quarter-camvid.jpeg-quality-5"
    assert f"not in use: {name} version 1 stays challenger: " in result.output
    assert "of the base by more than 100" in " ".join(result.output.split())
    assert "challenger, champion" not in run("adaptors").output
    plan["promotion"] = {"over_base": False}
    assert "not in use" not in adapt(tmp_path, plan).output
    assert "challenger, champion" in run("adaptors").output


@pytest.mark.usefixtures("prefect_server")
def test_a_run_that_fails_has_status_1_and_says_which_level(tmp_path: Path, plan: dict[str, Any]) -> None:
    plan["bound"] = {"fraction": 0.5}  # so many layers that their product leaves the range of float32
    for section, what in (("partial", "jpeg:quality=5"), ("finetune", "pristine control")):
        plan[section] = {"epochs": 1, "batch_size": 2, "optimizer": {"lr": 1e30}}
        result = adapt(tmp_path, plan)
        assert result.exit_code == 1
        last = result.stderr.strip().splitlines()[-1]
        assert re.match(f"error: {what}: DivergedError: the loss became (nan|inf) in epoch 1", last), last
        assert last.endswith("lower the learning rate")


def test_sense_tells_levels_and_goes_on_after_a_bad_file(tmp_path: Path, photo: Image.Image) -> None:
    (tmp_path / "a.jpg").write_bytes(encode(photo, "jpeg:quality=37"))
    (tmp_path / "b.jpg").write_bytes(b"nothing")
    result = run("sense", tmp_path / "b.jpg", tmp_path / "c.jpg", tmp_path / "a.jpg")
    assert "a.jpg: jpeg:quality=37 (misfit 0.000)" in result.stdout
    assert "b.jpg: expected bytes whose level can be sensed" in result.stderr
    assert "c.jpg: expected a readable file, but got: No such file" in result.stderr
    assert result.exit_code == 2


def test_infer_writes_masks_with_the_gear_that_fits(tmp_path: Path, problem: Any, photo: Image.Image) -> None:
    models = Registry(tmp_path, problem)
    models.register(models.adaptor("jpeg:quality=10", ["seg"]), 50.0)
    (tmp_path / "a.jpg").write_bytes(encode(photo, "jpeg:quality=12"))
    shutil.copy(tmp_path / "a.jpg", tmp_path / "b.jpg")
    (tmp_path / "b.jpg").write_bytes((tmp_path / "b.jpg").read_bytes()[:700])
    result = run("infer", NAME, tmp_path / "b.jpg", tmp_path / "a.jpg", "--output", tmp_path / "masks")
    assert "sensed jpeg:quality=12 (misfit 0.000), used jpeg:quality=10" in result.stdout
    mask = np.asarray(Image.open(tmp_path / "masks" / "a.png"))
    assert mask.shape == (photo.height, photo.width)
    assert mask.max() < 9
    assert "b.jpg: frame 0: expected an encoded image" in result.stderr
    assert result.exit_code == 2
    (tmp_path / "other").mkdir()
    shutil.copy(tmp_path / "a.jpg", tmp_path / "other" / "a.jpg")
    twice = run("infer", NAME, tmp_path / "a.jpg", tmp_path / "other" / "a.jpg")
    assert "expected images of different names" in twice.stderr
    assert twice.exit_code == 2


def test_infer_replaces_its_own_masks_and_nothing_of_the_users(
    tmp_path: Path, problem: Any, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = Registry(tmp_path, problem)
    models.register(models.adaptor("jpeg:quality=10", ["seg"]), 50.0)
    monkeypatch.chdir(tmp_path)
    Path("frames").mkdir()
    photo.save("frames/a.png")
    before = Path("frames/a.png").read_bytes()
    infer = ("infer", NAME, "frames/a.png", "--level", "jpeg:quality=10")
    assert [run(*infer).exit_code for _ in range(2)] == [0, 0]
    result = run(*infer, "--output", "frames")
    assert result.exit_code == 2
    assert "frames/a.png: expected a place for a result, but it is the input frames/a.png" in result.stderr
    again = run("infer", NAME, "masks/a.png", "--level", "jpeg:quality=10")
    assert "masks/a.png: expected a place for a result, but it is the input" in again.stderr
    Path("drawn").mkdir()
    Path("drawn/a.png").write_bytes(b"a user's")
    result = run(*infer, "--output", "drawn")
    assert "drawn/a.png: expected a free place or an earlier result, but GearNN did not write this" in result.stderr
    assert (Path("drawn/a.png").read_bytes(), Path("frames/a.png").read_bytes()) == (b"a user's", before)
    Path("masks/a.png").write_bytes(b"corrected by hand")
    result = run(*infer)
    assert result.exit_code == 2
    assert "masks/a.png: expected a free place or an earlier result, but this file was changed since" in result.stderr
    assert Path("masks/a.png").read_bytes() == b"corrected by hand"
    shutil.copy("frames/a.png", "frames/A.webp")
    assert "expected images of different names" in run(*infer, "frames/A.webp").stderr


def test_a_base_is_not_written_over_a_file_of_the_users(tmp_path: Path, plan: dict[str, Any]) -> None:
    theirs = tmp_path / "theirs.safetensors"
    theirs.write_bytes(b"a user's")
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(plan))
    result = run("train-base", path, "--output", theirs)
    assert result.exit_code == 2
    assert "theirs.safetensors: expected a free place or an earlier result" in result.stderr
    assert theirs.read_bytes() == b"a user's"


def test_infer_on_an_unknown_base(tmp_path: Path) -> None:
    result = run("infer", "nobody", tmp_path / "a.jpg")
    assert "no champion of nobody" in result.stderr
    assert result.exit_code == 1


def test_adaptors_in_an_empty_registry() -> None:
    assert "no adaptors are registered at sqlite:" in run("adaptors").output


@pytest.mark.parametrize("command", ["adapt", "train-base", "sense", "adaptors", "infer"])
def test_every_command_explains_itself(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_the_command_knows_its_version() -> None:
    result = run("--version")
    assert (result.exit_code, result.output) == (0, f"gearnn {version('gearnn')}\n")
