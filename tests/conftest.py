import os
import random
import shutil
import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image
from torch import nn

from gearnn.datasets import Camera, DistortedDataset
from gearnn.datasets.streets import Streets
from gearnn.levels import DistortionLevel
from gearnn.machine.compute import Compute
from gearnn.models import load_model
from gearnn.problems.segmentation import SemanticSegmentation

if TYPE_CHECKING:
    from infra.services import Services

settings.register_profile("house", deadline=None)  # machines are shared; no test asserts a time
settings.load_profile("house")

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))  # infra/ is not installed, and `pytest` alone does not look here
ARITHMETIC = REPOSITORY / "tests" / "arithmetic"
PYTHONPATH = f"{REPOSITORY}{os.pathsep}{ARITHMETIC}"  # of every process that a test starts with a path of its own
THREADS = torch.get_num_threads()
SHARED = Path(os.environ.get("GEARNN_SHARED", REPOSITORY.parent / "shared"))

os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
os.environ.setdefault("PREFECT_LOGGING_TO_API_ENABLED", "false")
INHERITED = os.environ.get("PYTHONPATH", "").split(os.pathsep)
if str(ARITHMETIC) not in INHERITED:
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (*INHERITED, str(ARITHMETIC))))


def pytest_configure(config: pytest.Config) -> None:
    """Compute as the environment says, in this process as in those that tests start; make each database once."""
    from tests.arithmetic import sitecustomize
    from tests.side_by_side import threads_of_each

    if sitecustomize.DATABASES not in os.environ:  # by the process that has started this one
        folder = tempfile.mkdtemp(prefix="gearnn-databases-")
        os.environ[sitecustomize.DATABASES] = folder
        config.add_cleanup(lambda: shutil.rmtree(folder))
    if processes := config.getoption("numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", str(threads_of_each(processes)))  # which they inherit
    if str(ARITHMETIC) not in INHERITED:  # where it is, Python has done it
        sitecustomize.begin()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With GEARNN_TEST_ORDER, files and the tests of each in an order that this seed determines."""
    from tests.side_by_side import turn

    if not (seed := os.environ.get("GEARNN_TEST_ORDER")):
        if "PYTEST_XDIST_WORKER" in os.environ:
            items.sort(key=lambda item: turn(item.nodeid))
        return
    files: dict[Path, list[pytest.Item]] = defaultdict(list)
    for item in items:
        files[item.path].append(item)
    shuffled, chance = list(files.values()), random.Random(seed)
    chance.shuffle(shuffled)
    for tests in shuffled:
        chance.shuffle(tests)
    items[:] = [item for tests in shuffled for item in tests]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    from tests.side_by_side import number_of_processes

    return number_of_processes()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Whole files, unless ``--dist`` asks for something else."""
    from tests.shared.scheduling import Files

    return Files(config, log) if config.getoption("dist") == "load" else None


@pytest.fixture(scope="session")
def shared() -> Path:
    """The real data; where it is absent, tests that need it skip, but in CI they fail."""
    if (SHARED / "data" / "camvid").is_dir() and (SHARED / "models").is_dir():
        return SHARED
    reason = f"no real data at {SHARED}; set GEARNN_SHARED to the folder that holds data/camvid and models"
    if "data" in os.environ.get("GEARNN_REQUIRE", "").split(","):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has an embedded registry of its own."""
    monkeypatch.setenv("GEARNN_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Flows set torch's number of threads for the whole process; each test starts with what the session had."""
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(THREADS)


@pytest.fixture(scope="session", autouse=True)
def slots(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests take no turns with whatever else trains on this machine."""
    os.environ["GEARNN_SLOTS"] = str(tmp_path_factory.mktemp("slots"))


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """One temporary Prefect server for all tests that run flows."""
    from prefect.testing.utilities import prefect_test_harness

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with prefect_test_harness(server_startup_timeout=180):
            yield


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Services"]:
    """Real servers, started once; who ends one of them has to resume it."""
    from tests.shared.servers import services as running_services

    with running_services(tmp_path_factory.mktemp("services")) as running:
        yield running


class TinyNet(nn.Module):
    """Four layers of known size: a convolution with bias, a BatchNorm, a fixed scale, a head."""

    stride = 1

    def __init__(self, num_classes: int = 9) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.fixed = nn.Conv2d(4, 4, 1, groups=4, bias=False)
        self.fixed.requires_grad_(False)
        self.head = nn.Conv2d(4, num_classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.fixed(torch.relu(self.bn(self.conv(x)))))


@pytest.fixture
def tiny() -> nn.Module:
    torch.manual_seed(0)
    return TinyNet().eval()


@pytest.fixture(scope="session")
def drn() -> nn.Module:
    torch.manual_seed(0)
    return load_model("drn_d_22_quarter", 9)


@pytest.fixture
def problem() -> SemanticSegmentation:
    return SemanticSegmentation(num_classes=9, ignore_index=None, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


@pytest.fixture
def samples() -> DistortedDataset:
    return DistortedDataset(Streets("train", 10, 0, Camera(size=(48, 32))), DistortionLevel.parse("jpeg:quality=10"))


@pytest.fixture
def fp32() -> Compute:
    return Compute.resolve("cpu", "fp32")


@pytest.fixture
def photo() -> Image.Image:
    return Streets("photo", 1, 3, Camera()).frame(0)


def camvid_copy(folder: Path, *, frames: int = 3) -> Path:
    """A small dataset in CamVid's layout, from rendered scenes."""
    for split in ("train", "val", "test"):
        scenes = Streets(split, frames, 5, Camera(size=(48, 36)))
        (folder / split).mkdir(parents=True)
        (folder / f"{split}annot").mkdir()
        for index in range(frames):
            scenes.frame(index).save(folder / split / f"{index:03d}.png")
            Image.fromarray(np.asarray(scenes.target(index))).save(folder / f"{split}annot" / f"{index:03d}.png")
    return folder


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    return camvid_copy(tmp_path / "camvid")
