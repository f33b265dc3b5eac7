import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import pytest
import torch
from prefect.artifacts import Artifact

from flows.adapt import adapt
from flows.train_base import train_base
from gearnn import registry
from gearnn.adaptor import Adaptor
from gearnn.algorithm1 import adapt_from_plan
from gearnn.datasets.cache import clear, usage
from gearnn.errors import DivergedError, LevelsFailedError, PlanError
from gearnn.evaluation import solutions
from gearnn.finetune import FineTuned, finetune
from gearnn.gearbox import GearBox
from gearnn.layers import model_size
from gearnn.levels import DistortionLevel
from gearnn.plan import Plan
from gearnn.registry import runs
from gearnn.registry.names import CHALLENGER, CHAMPION, NUM_VALUES, TAG_BASE_FINGERPRINT
from gearnn.sensitivity import read_table
from gearnn.store.storage import Store
from tasks.records import Adapted

pytestmark = [
    pytest.mark.usefixtures("prefect_server"),
    pytest.mark.filterwarnings("ignore"),  # of Prefect and MLflow; the library's own tests turn warnings into errors
]

LEVELS = ["jpeg:quality=5", "jpeg:quality=20"]
NAME = "drn_d_22_quarter-streets"
ONE_EPOCH = {"epochs": 1, "batch_size": 4, "clip": 1.0}  # so that none diverges
BY_PEOPLE = {"rule": "manual"}  # where a better score would change what is in use for the other tests


class World:
    """A store and a registry of their own, and a plan that runs in seconds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trained: list[str] = []
        self.registered: tuple[list[str], int] = ([], 0)  # by the first run, as are the artifacts
        self.artifacts: list[Artifact | None] = []

    def plan(self, **changes: Any) -> Plan:
        content = {
            "base": {"name": "drn_d_22_quarter", "num_classes": 9, "train": ONE_EPOCH},
            "data": {"name": "streets", "frames": {"train": 8, "val": 4, "test": 4}, "camera": {"size": [44, 30]}},
            "levels": LEVELS,
            "bound": {"fraction": 0.01},
            "promotion": {"over_base": False},  # one epoch teaches little
            "finetune": ONE_EPOCH | {"optimizer": {"lr": 0.01}},
            "store": str(self.folder / "store"),
            "workers": 1,
        }
        return Plan.read(content | changes, source="test")

    def adapt(self, **changes: Any) -> Adapted:
        with self.watched():
            return adapt(self.plan(**changes))

    @contextmanager
    def watched(self, fail_at: str | None = None) -> Iterator[None]:
        """Note what is trained; let the full fine-tune of one level fail."""
        self.trained.clear()

        def spy(base: Any, samples: Any, *args: Any, **kwargs: Any) -> FineTuned:
            what = (
                "base" if kwargs.get("batchnorm_statistics") == "all" else "partial" if kwargs.get("layers") else "full"
            )
            self.trained.append(f"{what} {samples.level}")
            if self.trained[-1] == fail_at:
                raise DivergedError("the loss became nan")
            return finetune(base, samples, *args, **kwargs)

        with patch("tasks.adapting.finetune.finetune", spy), patch("tasks.adapting.base.finetune", spy):
            yield


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("adapt"))


@pytest.fixture(autouse=True)
def home(world: World, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GEARNN_HOME", str(world.folder / "home"))
    return world.folder / "home"


@pytest.fixture(scope="module")
def first(world: World, prefect_server: None) -> Adapted:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("GEARNN_HOME", str(world.folder / "home"))
        adapted = world.adapt()
        world.registered = registered()
        world.artifacts = [Artifact.get(f"adapt-drn-d-22-quarter-streets-{n}") for n in ("levels", "report", "mlflow")]
    return adapted


def registered() -> tuple[list[str], int]:
    """Every version of an adaptor or of a gearbox, with its aliases, and the number of runs."""
    versions = [*registry.adaptors(NAME), registry.by_alias(f"{NAME}.gearbox", CHAMPION)]
    found = runs.client().search_runs([runs.experiment_id(NAME)])
    return [f"{version.uri} {' '.join(version.aliases)}" for version in versions], len(found)


def test_a_run_trains_every_level_once_and_gives_all_that_was_promised(world: World, first: Adapted) -> None:
    assert [row.level for row in first.rows] == LEVELS
    for row in first.rows:
        assert set(row.scores) == set(solutions.SOLUTIONS)
        assert row.adaptor.num_values == row.selection.num_values <= row.selection.bound
        assert row.selection.bound == int(0.01 * first.base.num_values)
        assert row.registered is not None
        table, about = read_table(Store(world.plan().store).get(row.table.parquet))
        assert about["level"] == row.level
        assert table["sensitivity"].gt(0).all()
        assert table["sensitivity_pristine"].gt(0).all()


def test_the_registry_holds_base_and_adaptors_with_lineage(world: World, first: Adapted) -> None:
    models = [f"{NAME}.jpeg-quality-5", f"{NAME}.jpeg-quality-20"]
    in_use = [f"models:/{model}/1 {CHALLENGER} {CHAMPION}" for model in models]
    gearbox = f"models:/{NAME}.gearbox/1 {CHAMPION}"
    assert world.registered == ([*in_use, gearbox], 1 + len(LEVELS))
    for model, row in zip(models, first.rows, strict=True):
        version = registry.get_version(model, "1")
        assert version.tags[TAG_BASE_FINGERPRINT] == first.base.fingerprint
        metrics = registry.metrics(version)
        assert metrics["test/adaptor/miou"] == pytest.approx(row.scores[solutions.ADAPTOR].values["test"])
        assert metrics["test/clean_fine-tune/miou"] == pytest.approx(row.scores[solutions.CLEAN].values["test"])
        assert metrics[NUM_VALUES] == row.adaptor.num_values
        run = runs.client().get_run(version.run_id)
        assert run.info.status == "FINISHED"
        assert run.data.params["optimizer"] == "adam"
        assert runs.client().list_artifacts(version.run_id, "sensitivity")


def test_a_gearbox_from_the_registry_runs_what_was_adapted(world: World, first: Adapted) -> None:
    gearbox = GearBox.from_registry(NAME, "jpeg", "champion")
    adaptor = Adaptor.load(Store(world.plan().store).get(first.rows[0].adaptor.file))
    x = torch.randn(1, 3, 32, 48)
    assert torch.equal(gearbox(x, LEVELS[0]), adaptor.apply(gearbox.base)(x))
    assert model_size(gearbox.base) == first.base.num_values


def test_the_report_lies_beside_tables_and_adaptors(first: Adapted) -> None:
    folder = Path(first.report).parent
    assert "| jpeg:quality=5 |" in Path(first.report).read_text()
    scores = pd.read_parquet(folder / "scores.parquet")
    assert len(scores) == 2 * 4 * 2
    assert (folder / "sensitivity" / "jpeg" / "jpeg-quality-5.parquet").is_file()
    assert Adaptor.load(folder / "adaptors" / "jpeg-quality-20.safetensors").num_values > 0


def test_prefect_shows_the_table_of_levels_and_the_way_to_mlflow(world: World, first: Adapted) -> None:
    table, report, link = world.artifacts
    assert table is not None
    assert report is not None
    assert link is not None
    assert [line["level"] for line in json.loads(table.data)] == LEVELS
    assert "### jpeg:quality=5" in report.data
    assert "mlflow ui --backend-store-uri sqlite:///" in link.data


def test_a_second_run_trains_and_registers_nothing(world: World, first: Adapted) -> None:
    earlier = world.adapt()  # with what other tests have lost, made again, or added to the gearbox
    before = registered()
    again = world.adapt()
    assert world.trained == []
    assert again == earlier
    assert [row.adaptor for row in again.rows] == [row.adaptor for row in first.rows]
    assert registered() == before


def test_one_more_level_trains_that_one_only(world: World, first: Adapted) -> None:
    more = world.adapt(levels=[*LEVELS, "brightness:factor=0.3"])
    assert sorted(world.trained) == ["full brightness:factor=0.3", "partial brightness:factor=0.3"]
    assert more.rows[0].adaptor == first.rows[0].adaptor
    assert [row.registered for row in more.rows[:2]] == [row.registered for row in first.rows]


def test_another_way_to_train_adaptors_leaves_the_full_finetunes(world: World, first: Adapted) -> None:
    partial = {"epochs": 2, "batch_size": 4, "optimizer": {"name": "adam"}}
    other = world.adapt(partial=partial, levels=LEVELS[:1], promotion=BY_PEOPLE)
    assert world.trained == ["partial jpeg:quality=5"]
    assert other.rows[0].full == first.rows[0].full
    version = other.rows[0].registered
    assert version is not None
    assert version.champion == "1" != version.version


def test_another_bound_solves_the_knapsack_again(world: World, first: Adapted) -> None:
    other = world.adapt(bound={"values": 900}, levels=LEVELS[:1], promotion=BY_PEOPLE)
    assert world.trained == ["partial jpeg:quality=5"]
    assert other.rows[0].adaptor.num_values <= 900
    assert other.rows[0].table == first.rows[0].table


def test_a_level_that_fails_does_not_hold_up_the_others_and_can_be_resumed(world: World, first: Adapted) -> None:
    levels = ["jpeg:quality=7", "jpeg:quality=9"]
    with world.watched(fail_at="full jpeg:quality=7"), pytest.raises(LevelsFailedError) as caught:
        adapt(world.plan(levels=levels))
    assert "jpeg:quality=7: DivergedError: the loss became nan" in str(caught.value)
    names = {v.name for v in registry.adaptors(NAME)}
    assert f"{NAME}.jpeg-quality-9" in names
    assert f"{NAME}.jpeg-quality-7" not in names
    resumed = world.adapt(levels=levels)
    assert sorted(world.trained) == ["full jpeg:quality=7", "partial jpeg:quality=7"]
    assert [row.level for row in resumed.rows] == levels


def test_frames_are_made_ahead_for_levels_that_are_yet_to_be_trained(world: World, first: Adapted) -> None:
    frames = Store(world.plan().store).frames
    clear(frames)
    world.adapt()
    assert usage(frames) == []  # all is trained, nothing needs them
    world.adapt(levels=[*LEVELS, "jpeg:quality=33"])
    assert {entry.name: entry.num_files for entry in usage(frames)} == {"jpeg-quality-33": 16}


def test_a_lost_file_is_made_again(world: World, first: Adapted) -> None:
    (Path(world.plan().store) / first.rows[1].full.weights.uri).unlink()
    again = world.adapt()
    assert world.trained == ["full jpeg:quality=20"]
    assert again.rows[1].full.weights == first.rows[1].full.weights


def test_a_fresh_store_gives_bit_identical_adaptors(
    world: World, first: Adapted, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("GEARNN_HOME", str(tmp_path / "home"))
    again = world.adapt(store=str(tmp_path / "store"))
    assert len(world.trained) == 2 + 2 * len(LEVELS)
    assert [row.adaptor.file for row in again.rows] == [row.adaptor.file for row in first.rows]


def test_training_a_base_exports_one_that_a_plan_can_name(world: World, tmp_path: Path) -> None:
    target = tmp_path / "base.safetensors"
    trained = train_base(world.plan(), str(target))
    assert trained.score.level == "pristine"
    base = {"name": "drn_d_22_quarter", "checkpoint": str(target), "registered_as": "exported"}
    with pytest.raises(PlanError, match="the plan names a checkpoint"):
        train_base.fn(world.plan(base=base))
    plan = world.plan(base=base, levels=LEVELS[:1])
    adaptor = adapt_from_plan(plan, DistortionLevel.parse(LEVELS[0]))
    flow = world.adapt(base=base, levels=LEVELS[:1])
    assert flow.base.fingerprint == trained.base.fingerprint == adaptor.base_fingerprint
    stored = Adaptor.load(Store(plan.store).get(flow.rows[0].adaptor.file))
    assert all(torch.equal(stored.tensors[name], tensor) for name, tensor in adaptor.tensors.items())
