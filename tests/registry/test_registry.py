import base64
import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import requests
import yaml
from PIL import Image

from gearnn import registry
from gearnn.distortions import encode
from gearnn.errors import RegistryError
from gearnn.gearbox import GearBox
from gearnn.layers import fingerprint
from gearnn.problems.segmentation import SemanticSegmentation
from gearnn.registry import runs, serving, versions
from gearnn.registry.names import (
    CHAMPION,
    FACT_FILES,
    LOSS_PARTIAL,
    TAG_BASE_FINGERPRINT,
    TAG_BASE_URI,
    TAG_LEVEL,
    TAG_LOGGED_MODEL,
    TAG_SHA256,
)
from tests.shared.registries import NAME, Registry
from tests.shared.servers import served_model

pytestmark = pytest.mark.filterwarnings("ignore:::mlflow", "ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def models(tmp_path: Path, problem: SemanticSegmentation) -> Registry:
    return Registry(tmp_path, problem)


def test_a_base_is_registered_once_and_comes_back(models: Registry) -> None:
    assert models.register_base().version == models.base.version == "1"
    model, problem, version = registry.load_base(NAME)
    assert fingerprint(model) == fingerprint(models.model)
    assert problem == models.problem
    assert version.aliases == (CHAMPION,)


def test_an_adaptor_names_the_exact_base_everywhere(models: Registry) -> None:
    version = models.register(models.adaptor("jpeg:quality=10", ["seg"]), 50.0)
    assert version.name == f"{NAME}.jpeg-quality-10"
    assert version.tags[TAG_BASE_URI] == models.base.uri == f"models:/{NAME}/1"
    assert version.tags[TAG_BASE_FINGERPRINT] == fingerprint(models.model)
    entity = runs.client().get_model_version(version.name, version.version)
    assert f"[{NAME} version 1](#/models/{NAME}/versions/1)" in entity.description
    assert "**card**" in entity.description
    metadata = mlflow.models.get_model_info(version.uri).metadata
    assert metadata[TAG_BASE_URI] == models.base.uri
    inputs = runs.client().get_run(version.run_id).inputs.model_inputs
    assert [entry.model_id for entry in inputs] == [models.base.tags[TAG_LOGGED_MODEL]]
    logged = runs.client().get_logged_model(version.tags[TAG_LOGGED_MODEL])
    assert logged.tags[TAG_BASE_FINGERPRINT] == fingerprint(models.model)


def test_the_same_identity_is_registered_once(models: Registry) -> None:
    adaptor = models.adaptor("jpeg:quality=10", ["seg"])
    assert models.register(adaptor, 50.0).version == models.register(adaptor, 50.0).version == "1"


def test_champion_is_the_best_and_challenger_the_latest(models: Registry) -> None:
    aliases = {}
    for score, names in ((50.0, ["seg"]), (49.0, ["base.0.1"]), (51.0, ["base.0.0"])):
        version = models.register(models.adaptor("jpeg:quality=10", names), score)
        aliases[version.version] = version.aliases
    assert aliases == {
        "1": ("challenger", "champion"),
        "2": ("challenger",),
        "3": ("challenger", "champion"),
    }
    assert [v.version for v in registry.adaptors(NAME)] == ["3", "2", "1"]
    assert registry.by_alias(f"{NAME}.jpeg-quality-10", "champion").version == "3"


def test_a_gearbox_comes_from_the_registry(models: Registry, photo: Image.Image) -> None:
    for level, name in (("jpeg:quality=10", "seg"), ("jpeg:quality=30", "base.0.1"), ("brightness:factor=0.3", "seg")):
        models.register(models.adaptor(level, [name]), 50.0)
    gearbox = GearBox.from_registry(NAME, "jpeg", "champion")
    assert {str(level) for level in gearbox.levels} == {"jpeg:quality=10", "jpeg:quality=30"}
    answer = gearbox.infer([encode(photo, "jpeg:quality=12")])[0]
    assert str(answer.used) == "jpeg:quality=10"
    assert len(GearBox.from_registry(NAME).levels) == 3


def test_versions_load_as_pyfuncs_without_pickle(
    models: Registry, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    adaptor = models.adaptor("jpeg:quality=10", ["seg"])
    version = models.register(adaptor, 50.0)
    frame = encode(photo, "jpeg:quality=10")
    predicted = mlflow.pyfunc.load_model(version.uri).predict(pd.DataFrame({"image": [frame]}))
    expected = GearBox(models.model, [adaptor], models.problem).infer([frame])[0].prediction
    assert np.array_equal(mask_of(predicted[0]), expected)
    assert (predicted[0]["level"], predicted[0]["sensed"]) == ("jpeg:quality=10", "jpeg:quality=10")
    base = mlflow.pyfunc.load_model(models.base.uri).predict(pd.DataFrame({"image": [frame]}))
    assert np.array_equal(
        mask_of(base[0]), GearBox(models.model, [], models.problem).infer([frame], level="pristine")[0].prediction
    )


def mask_of(answer: dict[str, Any]) -> np.ndarray:
    """The mask that a served model sends."""
    return np.asarray(Image.open(io.BytesIO(answer["mask"])))


def test_a_gearbox_is_one_model_whose_versions_follow_the_champions(
    models: Registry, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    with pytest.raises(RegistryError, match=f"models:/{NAME}/1 has no adaptor that is champion"):
        registry.register_gearbox(NAME)
    for level, names in (("jpeg:quality=10", ["seg"]), ("jpeg:quality=30", ["base.0.1"])):
        models.register(models.adaptor(level, names), 50.0)
    first = registry.register_gearbox(NAME)
    assert (first.name, first.version, first.aliases) == (f"{NAME}.gearbox", "1", ("champion",))
    assert registry.register_gearbox(NAME).version == "1"
    assert dict(registry.contents(first)) == {
        "base": f"{NAME}/1",
        "jpeg:quality=10": f"{NAME}.jpeg-quality-10/1",
        "jpeg:quality=30": f"{NAME}.jpeg-quality-30/1",
    }
    models.register(models.adaptor("jpeg:quality=10", ["base.1.1"]), 51.0)
    second = registry.register_gearbox(NAME)
    assert (second.version, registry.get_version(first.name, "1").aliases) == ("2", ())
    entity = runs.client().get_model_version(second.name, "2")
    assert f"[{NAME}.jpeg-quality-10 version 2](#/models/{NAME}.jpeg-quality-10/versions/2)" in entity.description
    frames = [encode(photo, "jpeg:quality=12"), b"no image", encode(photo, "jpeg:quality=95")]
    served = mlflow.pyfunc.load_model(f"models:/{NAME}.gearbox@champion")
    answers = served.predict(pd.DataFrame({"image": frames}))
    ours = GearBox.from_registry(NAME).answers(frames)
    assert [a.get("level") for a in answers] == ["jpeg:quality=10", None, "pristine"]
    assert answers[1] == {"error": str(ours[1])}
    for answer, own in zip(answers[::2], ours[::2], strict=True):
        assert np.array_equal(mask_of(answer), own.prediction)
        assert (answer["sensed"], answer["distance"], answer["misfit"]) == (str(own.sensed), own.distance, own.misfit)
    (refused,) = served.predict(pd.DataFrame({"image": frames[:1]}), params={"level": "jpeg:quality=90"})
    assert "as the hint says, but its bytes say jpeg:quality=12" in refused["error"]
    files = {path.suffix for path in Path(mlflow.artifacts.download_artifacts(second.uri)).rglob("*") if path.is_file()}
    assert files <= {"", ".safetensors", ".json", ".yaml", ".txt"}


@pytest.mark.service
def test_mlflow_serves_a_gearbox_over_http(models: Registry, photo: Image.Image) -> None:
    for level, names in (("jpeg:quality=10", ["seg"]), ("jpeg:quality=30", ["base.0.1"])):
        models.register(models.adaptor(level, names), 50.0)
    version = registry.register_gearbox(NAME)
    frames = [encode(photo, "jpeg:quality=12"), b"no image", encode(photo, "jpeg:quality=34")]
    body = {"columns": ["image"], "data": [[base64.b64encode(frame).decode()] for frame in frames]}
    with served_model(f"models:/{version.name}@champion") as address:

        def ask(**more: Any) -> list[dict[str, Any]]:
            answer = requests.post(f"{address}/invocations", json={"dataframe_split": body, **more}, timeout=120)
            assert answer.status_code == 200, answer.text
            predictions: list[dict[str, Any]] = answer.json()["predictions"]
            return predictions

        predictions, told = ask(), ask(params={"level": "jpeg:quality=30"})
    assert [p.get("level") for p in predictions] == ["jpeg:quality=10", None, "jpeg:quality=30"]
    assert "give the level instead" in predictions[1]["error"]
    for served, own in zip(predictions[::2], GearBox.from_registry(NAME).infer(frames[::2]), strict=True):
        assert np.array_equal(mask_of({"mask": base64.b64decode(served["mask"])}), own.prediction)
    assert ["error" in p for p in told] == [True, True, False]


def test_curves_and_scores_stand_on_the_versions_run(models: Registry) -> None:
    version = models.register(models.adaptor("jpeg:quality=10", ["seg"]), 50.0)
    assert registry.metrics(version)["promote/adaptor/miou"] == 50.0
    curve = runs.client().get_metric_history(version.run_id, LOSS_PARTIAL)
    assert [(point.step, point.value) for point in curve] == [(1, 2.0), (2, 1.0)]
    assert runs.client().get_run(version.run_id).data.tags["mlflow.parentRunId"] == models.parent


def test_missing_things_are_named(models: Registry) -> None:
    with pytest.raises(RegistryError, match="no champion of unknown"):
        GearBox.from_registry("unknown", "jpeg")
    with pytest.raises(RegistryError, match=f"{NAME} has no adaptor for jpeg"):
        GearBox.from_registry(NAME, "jpeg")
    models.register(models.adaptor("jpeg:quality=10", ["seg"]), 50.0)
    with pytest.raises(RegistryError, match=f"none of the adaptors of {NAME} for jpeg is staging"):
        GearBox.from_registry(NAME, "jpeg", "staging")


def test_an_adaptor_of_an_older_base_is_never_used_silently(models: Registry, tmp_path: Path) -> None:
    models.register(models.adaptor("jpeg:quality=10", ["seg"]), 50.0)
    Registry(tmp_path, models.problem, seed=1)  # another base under the same name becomes champion
    with pytest.raises(RegistryError, match=rf"adapts models:/{NAME}/1, not models:/{NAME}/2; run `gearnn adapt`"):
        GearBox.from_registry(NAME, "jpeg")


def test_a_champion_of_an_older_base_gives_way_and_that_base_can_come_back(models: Registry, tmp_path: Path) -> None:
    models.register(models.adaptor("jpeg:quality=10", ["seg"]), 50.0)
    newer = Registry(tmp_path, models.problem, seed=1)
    newer.register(newer.adaptor("jpeg:quality=10", ["seg"]), 40.0)  # worse, but the only one that fits
    assert GearBox.from_registry(NAME, "jpeg").levels
    assert models.register_base().aliases == (CHAMPION,)
    models.register(models.adaptor("jpeg:quality=10", ["seg"]), 50.0)
    assert fingerprint(GearBox.from_registry(NAME, "jpeg").base) == fingerprint(models.model)


def test_an_adaptor_of_another_base_is_not_registered(models: Registry, tmp_path: Path) -> None:
    adaptor = models.adaptor("jpeg:quality=10", ["seg"])
    other = Registry(tmp_path, models.problem, seed=1)
    with pytest.raises(RegistryError, match="its header names another base"):
        other.register(adaptor, 50.0)


def test_a_tag_that_somebody_removed_is_named(models: Registry) -> None:
    version = models.register(models.adaptor("jpeg:quality=10", ["seg"]), 50.0)
    runs.client().delete_model_version_tag(version.name, version.version, TAG_BASE_FINGERPRINT)
    with pytest.raises(RegistryError, match=r"jpeg-quality-10/1 is damaged, expected the tag gearnn.base.fingerprint"):
        GearBox.from_registry(NAME)
    runs.client().delete_model_version_tag(version.name, version.version, TAG_SHA256)
    with pytest.raises(RegistryError, match=r"jpeg-quality-10/1 is damaged, .* but adaptor.safetensors is altered"):
        registry.load_adaptor(registry.get_version(version.name, version.version))
    runs.client().delete_model_version_tag(version.name, version.version, TAG_LEVEL)
    assert "expected the tag gearnn.level" in versions.unknown_level(registry.adaptors(NAME)[0])


@pytest.mark.parametrize("text", ["", "[1]", "{", "1", "[" * 100_000])
def test_a_tag_that_somebody_changed_is_one_line(text: str) -> None:
    with pytest.raises(RegistryError, match=r"models:/a/1, tag b: expected an object as JSON, but got '.{0,60}$"):
        versions.json_of(text, "models:/a/1, tag b")
    assert versions.json_of('{"a": 1}', "") == {"a": 1}


def test_damaged_bytes_are_found_on_loading(models: Registry, home: Path) -> None:
    version = models.register(models.adaptor("jpeg:quality=10", ["seg"]), 50.0)
    stored = next(home.rglob("adaptor.safetensors"))
    data = bytearray(stored.read_bytes())
    data[-1] ^= 1
    stored.write_bytes(bytes(data))
    with pytest.raises(RegistryError, match=r"jpeg-quality-10/1 is damaged, .* but adaptor.safetensors is altered"):
        registry.load_adaptor(version)
    described = next(path for path in home.rglob("description.json") if (path.parent / "base.safetensors").is_file())
    facts = json.loads(described.read_text())
    facts["problem"]["mean"] = [0.9, 0.9, 0.9]
    described.write_text(json.dumps(facts))
    with pytest.raises(RegistryError, match=r"tiny-streets/1 is damaged, .* but description.json is altered"):
        registry.load_base(NAME)
    with pytest.raises(RegistryError, match=r"tiny-streets/1 is damaged"):
        registry.register_gearbox(NAME)  # rather than bundle damaged files


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100 % len(data)] ^= 1
    path.write_bytes(bytes(data))


def rewrite_mean(path: Path) -> None:
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {"problem": facts["problem"] | {"mean": [0.9, 0.9, 0.9]}}))


def name_code(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"network": "antigravity:open"}))


def forget_digests(path: Path) -> None:
    """MLmodel as versions of GearNN 0.1 have it, which did not list the files."""
    content = yaml.safe_load(path.read_text())
    del content["metadata"][FACT_FILES]
    path.write_text(yaml.safe_dump(content))


ALTERATIONS: list[tuple[str, Callable[[Path], object], str]] = [
    ("adaptors/jpeg-quality-10.safetensors", flip, r"adaptors/jpeg-quality-10.safetensors is altered"),
    ("adaptors/jpeg-quality-10.safetensors", Path.unlink, r"adaptors/jpeg-quality-10.safetensors is missing"),
    ("adaptors/more.safetensors", Path.touch, r"adaptors/more.safetensors is unexpected"),
    ("base.safetensors", flip, r"base.safetensors is altered"),
    ("description.json", rewrite_mean, r"description.json is altered"),
    ("description.json", name_code, r"description.json is altered"),
    ("description.json", Path.unlink, r"description.json is missing"),
    ("../../MLmodel", Path.unlink, r"expected MLflow's file MLmodel above it"),
    ("../../MLmodel", lambda path: path.write_bytes(b"\xff"), r"expected MLflow's description of a model"),
    ("../../MLmodel", lambda path: path.write_text("metadata: 1"), r"expected the metadata of a version"),
]


def test_versions_that_were_registered_before_the_loader_moved_still_load(
    models: Registry, tmp_path: Path, photo: Image.Image
) -> None:
    models.register(models.adaptor("jpeg:quality=10", ["seg"]), 50.0)
    folder = Path(mlflow.artifacts.download_artifacts(registry.register_gearbox(NAME).uri, dst_path=str(tmp_path)))
    text = (folder / "MLmodel").read_text()
    assert "loader_module: gearnn.registry.serving\n" in text
    (folder / "MLmodel").write_text(text.replace("gearnn.registry.serving", "gearnn.serving"))
    sent = pd.DataFrame({"image": [encode(photo, "jpeg:quality=10")]})
    (answer,) = mlflow.pyfunc.load_model(str(folder)).predict(sent)
    assert answer["level"] == "jpeg:quality=10"


def test_what_mlflow_serves_is_what_was_registered(models: Registry, tmp_path: Path) -> None:
    models.register(models.adaptor("jpeg:quality=10", ["seg"]), 50.0)
    source = mlflow.artifacts.download_artifacts(registry.register_gearbox(NAME).uri, dst_path=str(tmp_path / "source"))
    for number, (name, alter, message) in enumerate(ALTERATIONS):
        copy = shutil.copytree(source, tmp_path / str(number))
        alter(copy / "data" / "gearbox" / name)
        with pytest.raises(RegistryError, match=message):
            serving._load_pyfunc(str(copy / "data" / "gearbox"))
    older = shutil.copytree(source, tmp_path / "older")
    forget_digests(older / "MLmodel")
    assert serving._load_pyfunc(str(older / "data" / "gearbox")).level is None
    for number, (name, alter, _) in enumerate(ALTERATIONS[:7]):
        copy = shutil.copytree(older, tmp_path / f"older-{number}")
        alter(copy / "data" / "gearbox" / name)
        with pytest.raises(RegistryError, match=r"is damaged|no such file"):
            serving._load_pyfunc(str(copy / "data" / "gearbox"))
    assert "antigravity" not in sys.modules
