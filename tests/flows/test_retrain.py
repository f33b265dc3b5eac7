"""What a retraining finds out, makes, and leaves alone; with a registry and a Prefect server of its own."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.artifacts import Artifact
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from typer.testing import CliRunner

from flows.cli.app import app
from flows.retrain import retrain
from gearnn import registry
from gearnn.errors import LevelsFailedError, PlanError
from gearnn.gearbox import GearBox
from gearnn.registry import runs
from gearnn.registry.names import CHALLENGER, CHAMPION, TAG_LEVEL
from gearnn.store.storage import Store
from tasks.registering import ingredients
from tasks.retraining.compare import compare
from tasks.retraining.retrain import read_plans
from tests.conftest import camvid_copy

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.filterwarnings("ignore")]

NAME = "tiny"


class World:
    """A folder of plans, and what retraining made of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.frames = camvid_copy(folder / "camvid")
        self.plans = folder / "plans"
        self.plans.mkdir()

    def write(self, name: str = "main", **changes: Any) -> Path:
        content = {
            "base": {
                "name": "drn_d_22_quarter",
                "train": {"epochs": 1, "batch_size": 4},
                "registered_as": NAME,
            },
            "data": {"name": "camvid", "root": str(self.frames), "splits": {"train": "train", "promote": "val"}},
            "levels": ["jpeg:quality=5", "jpeg:quality=20"],
            "bound": {"fraction": 0.01},
            "finetune": {"epochs": 1, "batch_size": 4, "optimizer": {"lr": 0.01}},
            "promotion": {"over_base": False},
            "store": str(self.folder / "store"),
            "workers": 1,
        }
        path = self.plans / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content | changes))
        return path

    def states(self, **options: Any) -> dict[str, tuple[str, str]]:
        """Level -> its state, and why."""
        findings = compare.fn(read_plans([str(self.plans)]), **options)
        return {f.level: (f.state, "; ".join(f.reasons)) for f in findings}

    def retrain(self, **options: Any) -> Any:
        return retrain([str(self.plans)], **options)

    def versions(self) -> dict[str, str]:
        """Every version of an adaptor -> its aliases."""
        return {f"{v.tags[TAG_LEVEL]} {v.version}": " ".join(v.aliases) for v in registry.adaptors(NAME)}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_only_what_is_missing_or_changed_is_made_and_the_reason_is_told(world: World) -> None:
    world.write()
    missing = ("missing", "its base is not trained yet, or in another store")
    assert world.states() == {"jpeg:quality=5": missing, "jpeg:quality=20": missing}
    done = world.retrain()
    assert [(r.level, r.version) for r in done.registered] == [("jpeg:quality=5", "1"), ("jpeg:quality=20", "1")]
    assert set(world.states().values()) == {("present", "")}
    assert world.retrain().registered == ()

    world.write(levels=["jpeg:quality=5", "jpeg:quality=20", "brightness:factor=0.3"])
    before = world.versions()
    assert world.states()["brightness:factor=0.3"] == ("missing", "none is registered")
    assert [r.level for r in world.retrain().registered] == ["brightness:factor=0.3"]
    assert {k: v for k, v in world.versions().items() if k in before} == before

    world.write(finetune={"epochs": 1, "batch_size": 2, "optimizer": {"lr": 0.01}}, levels=["jpeg:quality=5"])
    changed = ("changed", "finetune.batch_size 4 -> 2; partial.batch_size 4 -> 2")
    assert world.states()["jpeg:quality=5"] == changed
    assert world.states()["jpeg:quality=20"] == ("retired", "no plan has this level")
    assert world.states(levels=["jpeg:quality=5"]) == {"jpeg:quality=5": changed}


def test_other_frames_or_another_version_of_a_step_are_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.write(levels=["jpeg:quality=5"])
    world.retrain()
    now = ingredients.full_finetune.version
    monkeypatch.setattr("tasks.registering.ingredients.full_finetune.version", now + 1)
    assert world.states() == {"jpeg:quality=5": ("changed", f"steps.full_finetune {now} -> {now + 1}")}
    monkeypatch.undo()
    monkeypatch.setenv("GEARNN_HOME", str(world.folder / "home"))
    frame = world.frames / "val" / "000.png"
    frame.write_bytes((world.frames / "val" / "001.png").read_bytes())
    state, why = world.states()["jpeg:quality=5"]
    assert state == "changed"
    assert why.startswith("data.promote ")
    assert "data.train" not in why


def test_the_champion_is_scored_again_when_the_held_out_frames_are_others(world: World) -> None:
    path = world.write(levels=["jpeg:quality=5"])
    world.retrain()
    (world.frames / "val" / "000.png").write_bytes((world.frames / "val" / "001.png").read_bytes())
    assert world.retrain().registered[0].version == "2"
    plan = read_plans([str(path)])[str(path)]
    scores = [
        json.loads(record.read_text()) for record in (Path(plan.store) / "records" / "evaluate_solution").glob("*.json")
    ]
    assert [score["level"] for score in scores if score["solution"] == CHAMPION] == ["jpeg:quality=5"]
    assert Store(plan.store).root.is_dir()
    (version,) = [v for v in registry.adaptors(NAME) if CHAMPION in v.aliases]
    assert version.version == "1"  # the same adaptor, so it is no better


def test_a_retired_level_is_archived_only_when_asked_and_comes_back_untrained(world: World) -> None:
    world.write()
    world.retrain()
    world.write(levels=["jpeg:quality=5"])
    assert world.retrain().archived == ()
    assert world.versions()["jpeg:quality=20 1"] == "challenger champion"
    assert world.retrain(archive=True).archived == (f"{NAME}.jpeg-quality-20",)
    assert world.versions() == {"jpeg:quality=5 1": "challenger champion", "jpeg:quality=20 1": "archived"}
    assert [str(level) for level, _ in registry.contents(registry.by_alias(f"{NAME}.gearbox", "champion"))] == [
        "base",
        "jpeg:quality=5",
    ]
    assert world.states() == {"jpeg:quality=5": ("present", "")}
    world.write()
    assert world.states()["jpeg:quality=20"] == ("archived", "it was retired, and comes back")
    assert world.retrain().registered == ()
    assert world.versions()["jpeg:quality=20 1"] == "challenger champion"


def test_two_plans_may_share_a_base_but_not_differ_about_a_level(world: World) -> None:
    world.write(levels=["jpeg:quality=5"])
    world.write("other", levels=["jpeg:quality=20"])
    assert len(world.retrain().registered) == 2
    world.write("other", levels=["jpeg:quality=5"], seed=7)
    with pytest.raises(PlanError, match=r"expected one recipe for tiny.jpeg-quality-5, but .*main.yaml and .*other"):
        world.states()


def test_a_plan_that_fails_does_not_hold_up_the_others(world: World) -> None:
    world.write(levels=["jpeg:quality=5"])
    world.write(
        "worse",
        base={"name": "drn_d_22_quarter", "train": {"epochs": 1, "batch_size": 4}, "registered_as": "worse"},
        bound={"values": 1},
    )
    with pytest.raises(LevelsFailedError, match=r"worse.yaml: .*expected room for at least one layer") as caught:
        world.retrain()
    assert [r.level for r in caught.value.registered] == ["jpeg:quality=5"]
    table = Artifact.get("retrain-registered")
    assert table is not None
    assert [line["level"] for line in json.loads(table.data)] == ["jpeg:quality=5"]


def test_train_base_does_not_take_the_place_of_a_base_that_is_in_use(world: World) -> None:
    from flows.train_base import train_base

    path = world.write(levels=["jpeg:quality=5"])
    world.retrain()
    world.write(
        levels=["jpeg:quality=5"],
        base={"name": "drn_d_22_quarter", "train": {"epochs": 1, "batch_size": 2}, "registered_as": NAME},
    )
    trained = train_base(read_plans([str(path)])[str(path)])
    assert (trained.registered.version, trained.registered.champion) == ("2", "1")
    assert registry.get_version(NAME, "2").aliases == (CHALLENGER,)
    state, why = world.states()["jpeg:quality=5"]
    assert state == "changed"
    assert why.startswith("base ")
    world.retrain()
    assert registry.get_version(NAME, "2").aliases == (CHAMPION,)
    assert world.versions() == {"jpeg:quality=5 2": "challenger champion", "jpeg:quality=5 1": ""}


def test_the_command_says_what_it_would_do(world: World) -> None:
    path = world.write()
    told = CliRunner().invoke(app, ["retrain", str(path), "--dry-run"])
    assert told.exit_code == 0, told.output
    assert "tiny.jpeg-quality-5" in told.output
    assert "to be made: 2; to come back: 0; to be archived: 0; in place: 0 of 2" in told.output
    assert registry.adaptors() == []
    wrong = CliRunner().invoke(app, ["retrain", str(world.folder / "none"), "--dry-run"])
    assert wrong.exit_code == 2
    assert "no such file" in wrong.output
    (world.folder / "empty").mkdir()
    empty = CliRunner().invoke(app, ["retrain", str(world.folder / "empty"), "--dry-run"])
    assert "expected *.yaml in" in empty.output


OTHER_BASE = {"name": "drn_d_22_quarter", "train": {"epochs": 1, "batch_size": 2}, "registered_as": NAME}
"""Trains to other weights than the base of the other plans."""


def test_a_run_that_died_before_deciding_is_taken_up_by_a_retraining(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.write(levels=["jpeg:quality=5"])
    with monkeypatch.context() as patch:
        patch.setattr("flows.champions.put_into_use", lambda *_: (_ for _ in ()).throw(RuntimeError("died")))
        with pytest.raises(LevelsFailedError, match="champions: RuntimeError: died"):
            world.retrain()
    assert world.versions() == {"jpeg:quality=5 1": "challenger"}
    undecided = "it is registered, and nobody has decided whether it comes into use"
    assert world.states() == {"jpeg:quality=5": ("undecided", undecided)}
    world.retrain()
    assert world.versions() == {"jpeg:quality=5 1": "challenger champion"}
    assert world.states() == {"jpeg:quality=5": ("present", "")}


def test_a_new_base_waits_until_every_level_in_use_has_an_adaptor_of_it(world: World) -> None:
    world.write()
    world.retrain()
    world.write(base=OTHER_BASE)
    (one,) = world.retrain(levels=["jpeg:quality=5"]).registered
    waits = "waits for adaptors of jpeg:quality=20, which are in use with another base"
    assert one.reason == f"its base {waits}"
    assert len(GearBox.from_registry(NAME).levels) == 2  # of the base that is in use
    assert world.states()["jpeg:quality=5"] == ("present", "")  # it is decided: it waits
    world.retrain()
    assert world.versions() == {
        "jpeg:quality=5 2": "challenger champion",
        "jpeg:quality=5 1": "",
        "jpeg:quality=20 2": "challenger champion",
        "jpeg:quality=20 1": "",
    }
    assert set(world.states().values()) == {("present", "")}
    world.write()  # and back
    state, why = world.states()["jpeg:quality=5"]
    assert state == "undecided"
    assert why == "its base, version 1, is not in use, and nobody has decided about it"
    assert [r.version for r in world.retrain().registered] == ["1", "1"]
    assert registry.get_version(NAME, "1").aliases == (CHAMPION,)
    assert world.versions()["jpeg:quality=5 1"] == "champion"
    assert set(world.states().values()) == {("present", "")}


def test_a_new_base_that_no_adaptor_beats_leaves_none_of_the_old_ones_behind(world: World) -> None:
    world.write(levels=["jpeg:quality=5"])
    world.retrain()
    world.write(levels=["jpeg:quality=5"], base=OTHER_BASE, promotion={"margin": 100})  # points, which none reaches
    (made,) = world.retrain().registered
    assert "of the base" in made.reason
    assert registry.get_version(NAME, "2").aliases == (CHAMPION,)
    assert world.versions() == {"jpeg:quality=5 2": "challenger", "jpeg:quality=5 1": ""}
    assert set(world.states().values()) == {("present", "")}


def test_an_archived_level_that_is_wanted_otherwise_is_made_and_no_longer_archived(world: World) -> None:
    world.write()
    world.retrain()
    world.write(levels=["jpeg:quality=5"])
    world.retrain(archive=True)
    other = {"epochs": 1, "batch_size": 2, "optimizer": {"lr": 0.01}}
    world.write(finetune=other)
    assert world.states()["jpeg:quality=20"][0] == "changed"
    world.retrain()
    made = {"jpeg:quality=20 2": "challenger champion", "jpeg:quality=20 1": ""}
    assert {k: v for k, v in world.versions().items() if "20" in k} == made
    assert world.states()["jpeg:quality=20"] == ("present", "")
    world.retrain()
    assert {k: v for k, v in world.versions().items() if "20" in k} == made


def test_one_registered_base_is_one_network(world: World) -> None:
    world.write(levels=["jpeg:quality=5"])
    world.write("other", levels=["jpeg:quality=20"], base=OTHER_BASE)
    for name in ("main", "other"):
        retrain([str(world.plans / f"{name}.yaml")])
    with pytest.raises(PlanError, match=r"expected one base under the name tiny, but .*main.yaml and .*other.yaml"):
        world.states()


def test_a_plan_whose_frames_are_gone_does_not_hold_up_the_others_nor_retire_anything(world: World) -> None:
    world.write(levels=["jpeg:quality=5"])
    world.write("other", levels=["jpeg:quality=20"])
    world.retrain()
    data = {"name": "camvid", "root": str(world.folder / "nowhere"), "splits": {"train": "train", "promote": "val"}}
    world.write("other", levels=["jpeg:quality=20"], data=data)
    world.write(levels=["jpeg:quality=5", "jpeg:quality=7"])
    with pytest.raises(LevelsFailedError, match=r"other.yaml: .*nowhere") as caught:
        world.retrain(archive=True)
    assert [r.level for r in caught.value.registered] == ["jpeg:quality=7"]
    assert world.versions()["jpeg:quality=20 1"] == "challenger champion"


def test_a_level_that_no_plan_has_is_an_error(world: World) -> None:
    world.write()
    with pytest.raises(PlanError, match="levels: expected some of jpeg:quality=20, jpeg:quality=5, but got jpeg:qual"):
        world.retrain(levels=["jpeg:quality=030"])


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An address that takes messages, and the messages."""
    got: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", got
    server.shutdown()


def test_people_are_told_once_of_a_run_that_failed(
    world: World, webhook: tuple[str, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, got = webhook
    CustomWebhookNotificationBlock(
        name="team", url=address, json_data={"title": "{{subject}}", "text": "{{body}}"}
    ).save("team", overwrite=True)
    monkeypatch.setenv("GEARNN_NOTIFY", "custom-webhook/team")
    world.write(bound={"values": 1})
    with pytest.raises(LevelsFailedError):
        world.retrain()
    (message,) = got
    assert message["title"].startswith("GearNN: retrain ")
    assert "expected room for at least one layer" in message["text"]
    assert "/runs/flow-run/" in message["text"]


def test_fine_tunes_show_their_progress(world: World) -> None:
    world.write(levels=["jpeg:quality=7"])
    world.retrain()
    for what in ("training-the-base", "full-fine-tune-jpeg-quality-7", "partial-fine-tune-jpeg-quality-7"):
        artifact = Artifact.get(f"{NAME}-{what}")
        assert artifact is not None, what
        assert float(artifact.data) == 100.0


def test_the_registry_is_asked_four_times_however_much_it_holds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.write()
    world.retrain()
    asked = []
    client = runs.client()
    for name in (
        "search_model_versions",
        "search_registered_models",
        "get_model_version",
        "get_model_version_by_alias",
    ):
        original = getattr(client, name)
        monkeypatch.setattr(
            client, name, lambda *args, _f=original, _n=name, **kwargs: (asked.append(_n), _f(*args, **kwargs))[1]
        )
    world.states()
    assert sorted(asked) == 2 * ["search_model_versions"] + 2 * ["search_registered_models"]
