import json
from pathlib import Path

import pytest

from gearnn.description import DESCRIPTION_FILE, BaseDescription, open_description
from gearnn.errors import RegistryError
from gearnn.problem import InstanceSegmentation, SemanticSegmentation

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
