"""Many that register at the same time, with a real MLflow server on Postgres, and with sqlite."""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from gearnn import registry
from gearnn.adaptor import Adaptor
from gearnn.errors import CheckpointError, GearNNError
from gearnn.evaluation import solutions
from gearnn.evaluation.solutions import PROMOTE
from gearnn.problems.segmentation import SemanticSegmentation
from gearnn.registry import Promotion, Version, runs
from gearnn.registry.description import BaseDescription
from gearnn.registry.names import ARCHIVED, CHALLENGER, CHAMPION, TAG_PROMOTE_DATA, TAG_RETIRED, metric_name
from gearnn.registry.promoting import _exceeds as exceeds
from tests.shared.registries import NAME, Registry

if TYPE_CHECKING:
    from infra.services import Services

pytestmark = pytest.mark.filterwarnings("ignore")

LEVEL = "jpeg:quality=10"
MODEL = f"{NAME}.jpeg-quality-10"
METRIC = metric_name(PROMOTE, solutions.ADAPTOR, "miou")
OF_THE_BASE = metric_name(PROMOTE, solutions.BASE, "miou")


@pytest.fixture
def served(
    services: "Services", tmp_path: Path, problem: SemanticSegmentation, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Registry]:
    """A registry on the session's server; a model of its own is all that a test may look at."""
    for name, value in services.environment().items():
        monkeypatch.setenv(name, value)
    client = runs.client()
    for model in client.search_registered_models(f"name LIKE '{NAME}%'"):
        client.delete_registered_model(model.name)
    yield Registry(tmp_path, problem)
    for model in client.search_registered_models(f"name LIKE '{NAME}%'"):
        client.delete_registered_model(model.name)


def at_once(number: int, call: Callable[[int], Version]) -> list[Version]:
    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(call, range(number)))


def registering(models: Registry, adaptor: Adaptor) -> Callable[[str], Version]:
    path = models.folder / "adaptor.safetensors"
    adaptor.save(path)

    def register(identity: str) -> Version:
        run, _ = runs.level_run(models.experiment, models.parent, LEVEL, identity)
        return registry.register_adaptor(models.base, path, run_id=run, identity=identity, tags={}, card="")

    return register


@pytest.mark.service
@pytest.mark.parametrize("turns", ["one machine", "twenty machines"])
def test_twenty_that_register_the_same_adaptor_make_one_version(
    served: Registry, turns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if turns == "twenty machines":  # that share no lock
        monkeypatch.setattr(runs, "taking_turns", lambda name: nullcontext())
    register = registering(served, served.adaptor(LEVEL, ["seg"]))
    identity = hashlib.sha256(turns.encode()).hexdigest()
    found = at_once(20, lambda _: register(identity))
    (version,) = runs.client().search_model_versions(f"name = '{MODEL}'")
    assert {v.version for v in found} == {str(version.version)}
    assert registry.by_alias(MODEL, CHALLENGER).version == str(version.version)


@pytest.mark.service
@pytest.mark.parametrize("turns", ["one machine", "twenty machines"])
def test_twenty_that_register_different_adaptors_make_twenty_versions(
    served: Registry, turns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if turns == "twenty machines":
        monkeypatch.setattr(runs, "taking_turns", lambda name: nullcontext())
    register = registering(served, served.adaptor(LEVEL, ["seg"]))
    found = at_once(20, lambda number: register(hashlib.sha256(f"{turns} {number}".encode()).hexdigest()))
    assert len({v.version for v in found}) == 20
    assert len(runs.client().search_model_versions(f"name = '{MODEL}'")) == 20
    assert registry.by_alias(MODEL, CHALLENGER).version == max(found, key=lambda v: int(v.version)).version


@pytest.fixture
def models(tmp_path: Path, problem: SemanticSegmentation) -> Registry:
    return Registry(tmp_path, problem)


def scored(models: Registry, layer: str, score: float, base: float, data: str = "frames") -> Version:
    """A version with its own score and the base's on its run."""
    torch.manual_seed(len(layer))
    adaptor = models.adaptor(LEVEL, [layer])
    path = models.folder / "scored.safetensors"
    adaptor.save(path)
    identity = f"{layer} {score}"
    run, _ = runs.level_run(models.experiment, models.parent, LEVEL, identity)
    runs.log(run, metrics={METRIC: score, OF_THE_BASE: base})
    tags = {TAG_PROMOTE_DATA: data}
    return registry.register_adaptor(models.base, path, run_id=run, identity=identity, tags=tags, card="")


def test_the_rule_decides_about_the_champion(models: Registry) -> None:
    over_base = Promotion(over=OF_THE_BASE)
    worse = registry.promote(scored(models, "seg", 40.0, base=41.0), METRIC, over_base)
    assert worse.champion is None
    assert worse.reason == "40.00 is not better than 41.00 of the base"
    first = registry.promote(scored(models, "base.0.0", 42.0, base=41.0), METRIC, over_base)
    assert first.champion is not None
    assert (first.champion.version, first.reason) == ("2", "is champion")
    close = scored(models, "base.0.1", 42.5, base=41.0)
    margin = registry.promote(close, METRIC, Promotion(margin=1.0, over=OF_THE_BASE))
    assert margin.reason == "42.50 is not better than 42.00 of version 2 by more than 1"
    manual = registry.promote(close, METRIC, Promotion(rule="manual"))
    assert manual.reason == "people decide, by the plan's rule"
    assert registry.by_alias(MODEL, CHAMPION).version == "2"
    better = registry.promote(close, METRIC, over_base)
    assert better.champion is not None
    assert better.champion.version == "3"


def test_scores_of_other_frames_are_not_compared(models: Registry) -> None:
    registry.promote(scored(models, "seg", 60.0, base=10.0, data="easy frames"), METRIC)
    candidate = scored(models, "base.0.0", 42.0, base=10.0, data="hard frames")
    held = registry.promote(candidate, METRIC, held=43.0)
    assert held.reason == "42.00 is not better than 43.00 of version 1"
    beaten = registry.promote(candidate, METRIC, held=41.0)
    assert beaten.champion is not None
    assert beaten.champion.version == "2"


@pytest.mark.parametrize("nothing", [None, float("nan")])
def test_a_score_that_is_no_number_beats_none_and_is_beaten_by_any(nothing: float | None) -> None:
    assert exceeds(60.0, nothing, 0.0)
    assert not exceeds(nothing, 60.0, 0.0)
    assert not exceeds(nothing, nothing, 0.0)
    assert not exceeds(nothing, None, -100.0)
    assert exceeds(60.0, 59.0, 0.5)
    assert not exceeds(60.0, 59.0, 1.0)


def test_a_champion_without_a_score_gives_way_to_one_with_a_score(models: Registry) -> None:
    registry.promote(scored(models, "seg", 60.0, base=10.0, data="easy frames"), METRIC)
    candidate = scored(models, "base.0.0", float("nan"), base=10.0, data="hard frames")
    assert (
        registry.promote(candidate, METRIC, held=41.0).reason == "it has no score, so it is not better than version 1"
    )
    better = scored(models, "base.0.1", 42.0, base=10.0, data="hard frames")
    assert registry.promote(better, METRIC, held=float("nan")).reason == "is champion"


def test_a_base_that_is_not_finite_is_not_registered(models: Registry, tmp_path: Path) -> None:
    weights = tmp_path / "bad.safetensors"
    save_file({"seg.weight": torch.tensor([1.0, float("nan")])}, weights)
    description = BaseDescription.of("drn_d_22_quarter", 9, {}, models.problem)
    with pytest.raises(
        CheckpointError, match=r"other: expected finite values that fit float32, but seg.weight has NaN"
    ):
        registry.register_base("other", weights, "0" * 64, description, run_id=models.parent, num_values=2)


def test_a_base_stays_in_use_until_another_is_put_there(models: Registry, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    torch.manual_seed(9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "promote_base", lambda version: None)
        other = Registry(tmp_path / "other", models.problem, seed=9)
    assert other.base.aliases == (CHALLENGER,)
    assert registry.by_alias(NAME, CHAMPION).version == "1"
    registry.promote_base(other.base)
    assert registry.get_version(NAME, "2").aliases == (CHAMPION,)


def test_an_archived_level_comes_back_as_it_was(models: Registry) -> None:
    registry.promote(scored(models, "seg", 40.0, base=10.0), METRIC)
    scored(models, "base.0.0", 39.0, base=10.0)
    registry.archive(MODEL)
    assert registry.by_alias(MODEL, ARCHIVED).version == "1"
    for alias in (CHAMPION, CHALLENGER):
        with pytest.raises(GearNNError, match=f"no {alias} of {MODEL}"):
            registry.by_alias(MODEL, alias)
    assert TAG_RETIRED in runs.client().get_registered_model(MODEL).tags
    registry.archive(MODEL)  # again changes nothing
    assert registry.restore(MODEL) is not None
    assert registry.by_alias(MODEL, CHAMPION).version == "1"
    assert registry.by_alias(MODEL, CHALLENGER).version == "2"
    assert registry.aliased(MODEL, ARCHIVED) is None
    assert TAG_RETIRED not in runs.client().get_registered_model(MODEL).tags


def test_what_the_rule_refused_does_not_come_into_use_by_way_of_the_archive(models: Registry) -> None:
    registry.promote(scored(models, "seg", 30.0, base=40.0), METRIC, Promotion(over=OF_THE_BASE))
    registry.archive(MODEL)
    assert registry.by_alias(MODEL, ARCHIVED).version == "1"
    assert registry.restore(MODEL) is None
    assert registry.aliased(MODEL, CHAMPION) is None
    assert registry.by_alias(MODEL, CHALLENGER).version == "1"
