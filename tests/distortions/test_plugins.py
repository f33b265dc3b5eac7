"""A kind in a package of its own: installed for real, and used by the commands with no line of the library changed."""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import yaml
from PIL import Image

from gearnn.datasets import Camera
from gearnn.datasets.streets import Streets
from gearnn.distortions import Kind, Parameter, encode, kind_of, registry, sense
from gearnn.distortions.registry import kinds
from gearnn.errors import CodecError, LevelError
from gearnn.levels import DistortionLevel
from tests.conftest import PYTHONPATH, REPOSITORY
from tests.shared.plans import tiny

PLUGIN = REPOSITORY / "tests" / "plugins" / "gearnn_blur"
BASE = "blurred-streets"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package installed by pip from a copy of its sources, because building writes into them."""
    folder = tmp_path_factory.mktemp("plugin")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "gearnn_blur.py"):
        (source / name).write_bytes((PLUGIN / name).read_bytes())
    target = folder / "site"
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True, capture_output=True)
    return target


def run(installed: Path | None, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "GEARNN_HOME": str(folder / "home"), "PYTHONPATH": PYTHONPATH}
    if installed is not None:
        environment["PYTHONPATH"] += f"{os.pathsep}{installed}"
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def adapted(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a plan of such levels, and of one of the library's own, which was run; tests only look at it."""
    folder = tmp_path_factory.mktemp("adapted")
    levels = ["blur:sigma={1,3}", "blur:sigma=2+jpeg:quality=20", "jpeg:quality=10"]
    (folder / "plan.yaml").write_text(yaml.safe_dump(tiny(BASE, levels, str(folder / "store"), frames=(8, 2))))
    result = run(installed, folder, "gearnn", "adapt", "plan.yaml")
    assert result.returncode == 0, result.stderr[-2000:]
    return folder


def test_an_installed_kind_is_usable_in_a_plan_and_sensed(installed: Path, adapted: Path) -> None:
    listed = run(installed, adapted, "gearnn", "adaptors").stdout
    for slug in ("blur-sigma-1", "blur-sigma-3", "blur-sigma-2-jpeg-quality-20"):
        assert f"{BASE}.{slug}" in listed
    table = run(installed, adapted, "gearnn", "sensing", "plan.yaml").stdout
    assert "blur: frames by the gear that sensing chose" in table
    assert "blur:sigma=3" in table


def test_adaptors_of_a_kind_that_is_not_installed_do_not_hold_up_the_others(adapted: Path, tmp_path: Path) -> None:
    frame = Streets("val", 1, 0, Camera(size=(48, 32))).frame(0)
    (tmp_path / "frame.jpg").write_bytes(encode(frame, "jpeg:quality=12"))
    result = run(None, adapted, "gearnn", "infer", BASE, str(tmp_path / "frame.jpg"), "--output", str(tmp_path))
    assert "frame.jpg: sensed jpeg:quality=12 (misfit 0.000), used jpeg:quality=10" in result.stdout
    told = " ".join(result.stderr.split())
    assert f"{BASE}.blur-sigma-1 is left out: unknown distortion 'blur'" in told
    assert "blur-sigma-1" in run(None, adapted, "gearnn", "adaptors").stdout


def test_without_the_package_the_kind_does_not_exist(tmp_path: Path) -> None:
    code = "import sys; from gearnn.levels import DistortionLevel; DistortionLevel.parse('blur:sigma=2')"
    (tmp_path / "probe.py").write_text(code)
    assert "unknown distortion 'blur'" in run(None, tmp_path, "probe").stderr


class Point:
    """An entry point of a package that is not there."""

    def __init__(self, name: str, brings: object) -> None:
        self.name, self.value, self.dist = name, f"{name}_package:KIND", None
        self.brings = brings

    def load(self) -> object:
        if isinstance(self.brings, Exception):
            raise self.brings
        return self.brings


@pytest.mark.parametrize(
    ("brings", "message"),
    [
        (ImportError("no module named torchvizion"), "cannot be loaded: ImportError: no module named torchvizion"),
        ("a text", "expected fog_package:KIND to bring a Kind named 'fog', but got 'a text'"),
        (kind_of("jpeg"), "expected fog_package:KIND to bring a Kind named 'fog'"),
    ],
)
def test_a_broken_package_is_named(brings: object, message: str) -> None:
    registry._load.cache_clear()
    with (
        patch.object(registry, "_installed", lambda: {"fog": Point("fog", brings)}),
        pytest.raises(LevelError) as caught,
    ):
        DistortionLevel.parse("fog:density=1")
    registry._load.cache_clear()
    assert "distortion 'fog'" in str(caught.value)
    assert message in str(caught.value)


def test_an_installed_kind_cannot_take_the_place_of_one_of_the_librarys_own() -> None:
    registry._installed.cache_clear()
    with patch.object(metadata, "entry_points", lambda group: [Point("jpeg", None), Point("fog", None)]):
        assert list(registry._installed()) == ["fog"]
    registry._installed.cache_clear()
    assert {"brightness", "h264", "jpeg", "resolution"} <= kinds().keys()


@pytest.mark.parametrize("name", ["brightness", "h264", "jpeg", "resolution"])
def test_every_kind_says_what_its_values_count_and_how_it_is_sensed(name: str) -> None:
    kind = kind_of(name)
    assert all(parameter.unit and parameter.permitted for parameter in kind.parameters)
    assert kind.sensed_from in ("read from the bytes", "compared with calibration frames")
    level = DistortionLevel.parse(kind.example)
    assert level.kind == name
    assert str(DistortionLevel.parse(str(level))) == str(level)


def test_code_of_a_kind_that_fails_is_one_line_that_names_it(photo: Image.Image) -> None:
    def as_array(image: Image.Image, *, density: float) -> object:
        return np.asarray(image)

    def crashes(image: Image.Image, *, density: float) -> Image.Image:
        raise ZeroDivisionError("no fog")

    for distort, message in (
        (as_array, "expected it to give a PIL.Image.Image of mode RGB, but got ndarray"),
        (crashes, "ZeroDivisionError: no fog"),
    ):
        kind = Kind(
            name="fog",
            parameters=(Parameter(name="density", type=float, low=0.0, high=9.0, unit="1/km"),),
            pristine={"density": 0.0},
            distort=distort,  # type: ignore[arg-type]
            distance=lambda a, b: abs(float(a["density"]) - float(b["density"])),
            strength=lambda values: float(values["density"]),
        )
        registry._load.cache_clear()
        installed = {"fog": Point("fog", kind)}
        patched = patch.object(registry, "_installed", lambda installed=installed: installed)
        with patched, pytest.raises(CodecError) as caught:
            encode(photo, "fog:density=1")
        assert str(caught.value).startswith("level fog:density=1: its kind fog failed: ")
        assert message in str(caught.value)
    registry._load.cache_clear()


@pytest.mark.parametrize("wrong", [np.zeros((4, 4, 3), np.uint8), "frame.png"])
def test_frames_that_are_no_images_are_told(wrong: object) -> None:
    with pytest.raises(TypeError, match=r"expected a PIL.Image.Image, but got (ndarray|str); Image.fromarray"):
        encode(wrong, "jpeg:quality=10")  # type: ignore[arg-type]


def test_a_path_instead_of_bytes_is_told() -> None:
    with pytest.raises(
        TypeError, match=r"expected the bytes of a file, but got str; Path\(...\).read_bytes\(\) reads one"
    ):
        sense("frame.jpg")  # type: ignore[arg-type]
