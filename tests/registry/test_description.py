import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gearnn.errors import CheckpointError, PlanError, RegistryError
from gearnn.models.reference import references_in
from gearnn.problems.instances import InstanceSegmentation
from gearnn.problems.problem import restore_problem
from gearnn.problems.segmentation import SemanticSegmentation
from gearnn.registry.description import DESCRIPTION_FILE, BaseDescription, open_description

SEGMENTATION = SemanticSegmentation(num_classes=9, ignore_index=None, mean=(0.5,) * 3, std=(0.25,) * 3)


def write(folder: Path, description: BaseDescription) -> Path:
    (folder / DESCRIPTION_FILE).write_text(json.dumps(description.to_json()))
    return folder


def test_a_description_comes_back(tmp_path: Path) -> None:
    plain = BaseDescription.of("drn_d_22", 9, {}, SEGMENTATION)
    assert "kwargs" not in plain.to_json(), "as before there were any, so that known bases are found again"
    assert open_description(write(tmp_path, plain)).network == "drn_d_22"
    described = BaseDescription.of("mask_rcnn", 2, {"min_size": 320}, InstanceSegmentation(num_classes=2))
    assert open_description(write(tmp_path, described)) == described


@pytest.mark.parametrize(
    "description",
    [
        BaseDescription(network="os:system", num_classes=1, problem={}, kwargs={"command": "touch ran"}),
        BaseDescription(network="mask_rcnn", num_classes=2, problem={}, kwargs={"backbone": "os:system"}),
        BaseDescription(network="drn_d_22", num_classes=2, problem={"name": "os:system"}),
        BaseDescription(network="drn_d_22", num_classes=2, problem={}, kwargs={"deep": [{"er": "os:system"}]}),
    ],
)
def test_code_that_a_base_names_is_not_imported_unless_it_is_trusted(
    tmp_path: Path, description: BaseDescription, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, description)
    with pytest.raises(RegistryError, match=r"the base names code, os:system, .*GEARNN_TRUST=os in the environment"):
        open_description(tmp_path)
    with pytest.raises(RegistryError, match="the base names code"):
        open_description(tmp_path, trust=["o", "os.path"])
    assert open_description(tmp_path, trust=["os"]) == description
    monkeypatch.setenv("GEARNN_TRUST", "mypackage,os")
    assert open_description(tmp_path) == description


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Modules with names of every kind; importing one leaves the file that this gives."""
    ran = tmp_path / "ran"
    for name in ("my-pkg/nets", "über/nets", "my pkg/nets", "1st/nets", "pkg/__init__", "pkg/nets"):
        path = tmp_path / "site" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"open({str(ran)!r}, 'w').close()\ndef build(**kwargs): raise RuntimeError\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delenv("GEARNN_TRUST", raising=False)
    yield ran
    for name in [name for name in sys.modules if name.partition(".")[0] in ("my-pkg", "über", "my pkg", "1st", "pkg")]:
        del sys.modules[name]


NAMES = ["my-pkg.nets:build", "über.nets:build", "my pkg.nets:build", "1st.nets:build", "pkg:build", "pkg.nets:build"]
ODD = [" pkg:build", "pkg: build", ".pkg:build", "pkg.:build", "pkg:a:b", "pkg:", ":build", "pkg:__class__"]


@pytest.mark.parametrize("name", [*NAMES, *ODD])
@pytest.mark.parametrize(
    "content",
    [
        {"network": "NAME", "num_classes": 2, "problem": {"name": "classification"}},
        {
            "network": "mask_rcnn",
            "num_classes": 2,
            "problem": {"name": "classification"},
            "kwargs": {"backbone": "NAME"},
        },
        {"network": "drn_d_22_quarter", "num_classes": 2, "problem": {"name": "NAME"}},
    ],
)
def test_no_spelling_of_a_name_gets_around_the_gate(
    tmp_path: Path, package: Path, name: str, content: dict[str, object]
) -> None:
    text = json.dumps(content).replace("NAME", name)
    (tmp_path / DESCRIPTION_FILE).write_text(text)
    with pytest.raises((RegistryError, PlanError, CheckpointError)):
        open_description(tmp_path).build(tmp_path / "base.safetensors")
    with pytest.raises((RegistryError, PlanError)):
        restore_problem(json.loads(text)["problem"] | {"never": "a field"})
    unread = BaseDescription(**json.loads(text), trusted=frozenset())  # as if nobody had looked at the names
    with pytest.raises((RegistryError, PlanError, CheckpointError)):
        unread.build(tmp_path / "base.safetensors")
    assert not package.exists()


@pytest.mark.parametrize("name", NAMES)
def test_trusted_code_runs_whatever_its_name(tmp_path: Path, package: Path, name: str) -> None:
    write(tmp_path, BaseDescription(network=name, num_classes=2, problem={}))
    with pytest.raises(RegistryError, match=f"names code, {name}, .*; GEARNN_TRUST={re.split('[.:]', name)[0]} in"):
        open_description(tmp_path)
    for trust in ([re.split("[.:]", name)[0]], name.partition(":")[0]):
        with pytest.raises(PlanError, match="it raised RuntimeError"):
            open_description(tmp_path, trust=trust).build(tmp_path / "base.safetensors")
    assert package.exists()


def test_keys_that_name_code_are_seen_as_well() -> None:
    assert references_in({"deep": [{"os:system": 1}]}) == {"os:system"}


def test_trust_may_be_written_with_spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, BaseDescription(network="os:system", num_classes=1, problem={}))
    monkeypatch.setenv("GEARNN_TRUST", "timm, os ,")
    assert open_description(tmp_path).network == "os:system"
    monkeypatch.setenv("GEARNN_TRUST", " ,")
    with pytest.raises(RegistryError, match="the base names code"):
        open_description(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a description as JSON"),
        (b"\xff", "expected a description as JSON"),
        (b"[" * 100_000, "expected a description as JSON"),
        (b"[]", "expected a description, but got list"),
        (b"{}", "'network' is missing"),
        (b'{"network": "a", "num_classes": 1, "problem": {}, "trusted": ["os"]}', "'trusted' is unknown"),
        (b'{"network": "a", "num_classes": 1, "problem": "x"}', "expected problem to be an object, but got 'x'"),
        (b'{"network": ["a"], "num_classes": 1, "problem": {}}', "expected network to be a text"),
        (b'{"network": "a", "num_classes": true, "problem": {}}', "expected num_classes to be a number, but got True"),
        (b'{"network": "a", "num_classes": 1, "problem": {}, "kwargs": []}', "expected kwargs to be an object"),
    ],
)
def test_a_damaged_description_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / DESCRIPTION_FILE).write_bytes(content)
    with pytest.raises(RegistryError, match=f"description.json: {re.escape(message)}"):
        open_description(tmp_path)


def test_a_description_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"description.json: no such file"):
        open_description(tmp_path)
