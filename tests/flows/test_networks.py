"""The whole workflow on networks and problems that the flows know nothing of."""

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from flows.adapt import adapt
from flows.cli.app import app
from gearnn import registry
from gearnn.algorithm1 import adapt_from_plan
from gearnn.datasets import Camera
from gearnn.datasets.streets import Streets
from gearnn.errors import RegistryError
from gearnn.evaluation import solutions
from gearnn.evaluation.solutions import TEST
from gearnn.gearbox import GearBox
from gearnn.levels import DistortionLevel
from gearnn.models import build_model, save_checkpoint
from gearnn.models.frozen import thaw_batchnorms
from gearnn.plan import Plan
from gearnn.plan.opened import Opened
from gearnn.registry import runs
from gearnn.registry.names import CHAMPION, TAG_FIGURE, metric_name
from tasks.records import Adapted
from tests.shared.nets import TINY_MASK_RCNN

pytestmark = [
    pytest.mark.usefixtures("prefect_server"),
    pytest.mark.filterwarnings("ignore"),  # of Prefect and MLflow; the library's own tests turn warnings into errors
]

LEVELS = ["jpeg:quality={5,20}"]
STREETS = {"name": "streets", "frames": {"train": 6, "val": 3, "test": 3}, "camera": {"size": [88, 60]}}
ONE_EPOCH = {"epochs": 1, "batch_size": 3, "optimizer": {"lr": 0.01}, "clip": 1.0}  # so that none diverges


def plan(folder: Path, base: dict[str, Any], data: dict[str, Any] = STREETS, **more: Any) -> Plan:
    content = {"base": base, "data": data, "levels": LEVELS, "bound": {"fraction": 0.05}, "finetune": ONE_EPOCH,
               "promotion": {"over_base": False}, "store": str(folder / "store"), "workers": 1} | more  # fmt: skip
    return Plan.read(content, source="test")


def jpeg(plan: Plan) -> bytes:
    return Opened(plan).samples("test", DistortionLevel.parse("jpeg:quality=20")).encoded(0)


def registered(plan: Plan, adapted: Adapted) -> GearBox:
    """The gearbox from the registry; its adaptors have the figures, and equal those of Algorithm 1 by hand."""
    assert all(row.registered is not None for row in adapted.rows)
    gearbox = GearBox.from_registry(plan.registered_base, trust=["tests.shared.nets"])
    assert [str(level) for level in gearbox.levels] == ["jpeg:quality=20", "jpeg:quality=5"]
    version = registry.by_alias(f"{plan.registered_base}.jpeg-quality-20", CHAMPION)
    figure = version.tags[TAG_FIGURE]
    assert metric_name(TEST, solutions.ADAPTOR, figure) in registry.metrics(version)
    answer = gearbox.infer([jpeg(plan)])[0]
    assert str(answer.used) == "jpeg:quality=20"
    return gearbox


def test_mask_rcnn_with_a_base_from_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = {"name": "mask_rcnn", "kwargs": TINY_MASK_RCNN, "train": ONE_EPOCH}
    ours = plan(tmp_path, base)
    adapted = adapt(ours)
    gearbox = registered(ours, adapted)
    assert adapted.pristine.figure == "mask_ap"
    figures = adapted.rows[0].scores["adaptor"].figures["test"]
    assert list(figures) == ["mask_ap", "mask_ap50", "mask_ap75", "box_ap", "box_ap50", "box_ap75"]
    assert "| mask AP50 | mask AP75 | box AP |" in Path(adapted.report).read_text()
    # The base learnt with BatchNorms that move, and has them fixed now, with statistics of their own.
    fresh = build_model("mask_rcnn", 9, TINY_MASK_RCNN)
    stem = gearbox.base.backbone.body.stem[1]
    assert type(stem) is type(fresh.backbone.body.stem[1])
    assert not torch.equal(stem.running_mean, fresh.backbone.body.stem[1].running_mean)
    assert thaw_batchnorms(fresh)
    # The command writes instances and boxes.
    (tmp_path / "frame.jpg").write_bytes(jpeg(ours))
    with pytest.raises(
        RegistryError, match=r"the base names code, tests\.shared\.nets:tiny_maps, and loading it runs that"
    ):
        GearBox.from_registry(ours.registered_base)
    monkeypatch.setenv("GEARNN_TRUST", "tests")
    result = CliRunner().invoke(
        app, ["infer", ours.registered_base, str(tmp_path / "frame.jpg"), "-o", str(tmp_path / "out")]
    )
    assert result.exit_code == 0, result.output
    assert Image.open(tmp_path / "out" / "frame.png").size == (88, 60)
    objects = json.loads((tmp_path / "out" / "frame.json").read_text())["objects"]
    assert objects
    assert set(objects[0]) == {"class", "score", "box"}
    # MLflow serves it without pickle.
    import mlflow

    version = registry.by_alias(f"{ours.registered_base}.jpeg-quality-20", CHAMPION)
    runs.client()
    served = mlflow.pyfunc.load_model(version.uri).predict(pd.DataFrame({"image": [jpeg(ours)]}))[0]
    assert Image.open(io.BytesIO(served["mask"])).size == (88, 60)
    assert served["objects"] == objects
    # A second run trains nothing; another level trains that level.
    again = adapt(ours)
    assert [row.adaptor.file for row in again.rows] == [row.adaptor.file for row in adapted.rows]


def class_folders(root: Path) -> Path:
    """Rendered scenes in two classes: as they are, and upside down."""
    for split, number in (("train", 4), ("val", 2), ("test", 2)):
        scenes = Streets(split, number, 3, Camera(size=(40, 32)))
        for name in ("upright", "upturned"):
            (root / split / name).mkdir(parents=True)
            for index in range(number):
                frame = scenes.frame(index)
                frame = frame if name == "upright" else frame.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
                if index == 1:
                    frame = frame.resize((52, 36))
                frame.save(root / split / name / f"{index}.png")
    return root


def test_a_torchvision_classifier_on_folders_of_classes(tmp_path: Path) -> None:
    data = {"name": "class_folders", "root": str(class_folders(tmp_path / "data")), "classes": ["upright", "upturned"]}
    ours = plan(
        tmp_path,
        {"name": "shufflenet_v2_x0_5", "train": ONE_EPOCH},
        data,
        problem={"size": [40, 32]},
    )
    adapted = adapt(ours)
    gearbox = registered(ours, adapted)
    assert adapted.pristine.figure == "accuracy"
    assert "accuracy in percent on the split `test`" in Path(adapted.report).read_text()
    assert gearbox.infer([jpeg(ours)])[0].prediction.sum() == pytest.approx(1)
    result = CliRunner().invoke(app, ["adaptors"])
    assert "accuracy" in result.output


def test_a_users_own_module_and_its_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "zoo.safetensors", build_model("tests.shared.nets:zoo", 9, {"width": 4}))
    base = {"module": "tests.shared.nets:zoo", "kwargs": {"width": 4}, "checkpoint": str(tmp_path / "zoo.safetensors")}
    ours = plan(tmp_path, base, problem={"name": "semantic_segmentation", "stride": 16}, bound={"fraction": 0.4})
    adapted = adapt(ours)
    gearbox = registered(ours, adapted)
    assert ours.registered_base == "tests-shared-nets-zoo-streets"
    assert gearbox.base.tied.weight is gearbox.base.embedding.weight
    assert gearbox.infer([jpeg(ours)])[0].prediction.shape == (60, 88)
    by_hand = adapt_from_plan(ours, DistortionLevel.parse("jpeg:quality=20"))
    row = next(row for row in adapted.rows if row.level == "jpeg:quality=20")
    assert by_hand.layers == row.selection.layers


def test_the_layers_of_a_plans_base_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    content = plan(tmp_path, {"module": "tests.shared.nets:zoo", "train": ONE_EPOCH}).model_dump(mode="json")
    path.write_text(json.dumps(content | {"problem": {"name": "semantic_segmentation"}}))  # JSON is YAML
    result = CliRunner().invoke(app, ["model", "show", str(path)])
    assert result.exit_code == 0, result.output
    lines = {line.split()[0]: " ".join(line.split()) for line in result.output.splitlines() if line}
    assert lines["embedding"] == "embedding Embedding weight 8x8 (tied: tied.weight) 64 2.474 % yes"
    assert lines["grouped"] == "grouped Conv2d weight 8x4x3x3 288 11.133 % no"
    assert lines["tests.shared.nets:zoo:"] == (
        "tests.shared.nets:zoo: semantic segmentation, 9 classes, to be trained, starting at random"
    )
    assert "2,587 values, 2,482 of them learnable in 17 layers" in result.output
    assert "fixed or statistics: (root) 9, BatchNorm2d 16, InstanceNorm2d 16, Conv2d 64" in result.output
    assert "bound of 129 values, 4.99 %: " in result.output


def test_showing_a_base_refuses_options_that_its_problem_does_not_have(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    content = plan(tmp_path, {"name": "drn_d_22_quarter", "train": ONE_EPOCH}).model_dump(mode="json")
    path.write_text(json.dumps(content | {"problem": {"strid": 4}}))
    result = CliRunner().invoke(app, ["model", "show", str(path)])
    assert result.exit_code == 2
    assert "semantic_segmentation has no strid; expected stride" in result.output


def test_all_fixed_networks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    content = plan(tmp_path, {"module": "tests.shared.nets:all_fixed", "train": ONE_EPOCH}).model_dump(mode="json")
    path.write_text(json.dumps(content | {"problem": {"name": "semantic_segmentation"}}))
    result = CliRunner().invoke(app, ["adapt", str(path)])
    assert result.exit_code == 2
    assert "expected at least one learnable tensor, but all are fixed" in result.output
