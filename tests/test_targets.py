"""Fine-tunes that follow the base on the undistorted frames, without labels."""

import math
import pickle
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from gearnn.algorithm1 import Method, adapt_from_plan, adapt_level
from gearnn.datasets import Camera, DistortedDataset, Sample, with_truth
from gearnn.datasets.frames import FrameDataset
from gearnn.datasets.instances import Instances
from gearnn.datasets.streets import Streets
from gearnn.errors import AdaptorError, DataError, PlanError
from gearnn.evaluate import evaluate
from gearnn.finetune import finetune
from gearnn.layers import model_size
from gearnn.levels import DistortionLevel
from gearnn.machine.compute import Compute
from gearnn.models.checkpoint import save_checkpoint
from gearnn.plan import Plan
from gearnn.plan.answered import _read, _written
from gearnn.plan.opened import Opened
from gearnn.problems.instances import InstanceSegmentation
from gearnn.problems.segmentation import SemanticSegmentation
from gearnn.recipe import Recipe
from gearnn.targets import FollowsBase, Pairs, scored_by
from tasks.adapting.data import check_data

LEVEL = DistortionLevel.parse("jpeg:quality=10")
SMALLER = DistortionLevel.parse("resolution:0.5")
RECIPE = Recipe(epochs=2, batch_size=5, optimizer="adam", lr=0.001)


class Hidden(Streets):
    """Scenes whose labels nobody may look at."""

    truth = "none"

    def target(self, index: int) -> None:  # type: ignore[override]
        return None


def pairs(level: DistortionLevel, kind: type[Streets] = Streets, frames: int = 6) -> Pairs:
    scenes: FrameDataset = kind("train", frames, 0, Camera(size=(48, 32)))
    return Pairs(DistortedDataset(scenes, level), DistortedDataset(scenes, DistortionLevel()))


def batch_of(problem: FollowsBase, samples: Pairs) -> Any:
    return problem.collate([samples[i] for i in range(len(samples))])


def followed_by_hand(student: nn.Module, base: nn.Module, problem: SemanticSegmentation, samples: Pairs) -> float:
    """-sum_c p_c log q_c, pixel by pixel, with p of the base on the undistorted frame and q of the student."""
    total, number = 0.0, 0
    with torch.no_grad():
        for i in range(len(samples)):
            pair = samples[i]
            wanted = base(problem.normalise(np.array(pair.undistorted.image)[None]))[0, :, :32, :48].softmax(0)
            found = student(problem.normalise(np.array(pair.distorted.image)[None]))[0, :, :32, :48].softmax(0)
            total += float(-(wanted * found.log()).sum())
            number += wanted[0].numel()
    return total / number


def test_the_base_is_followed_on_every_pixel_whatever_the_labels_say(
    tiny: nn.Module, problem: SemanticSegmentation, fp32: Compute
) -> None:
    following = FollowsBase(problem, tiny, "base", fp32)
    torch.manual_seed(1)
    student = type(tiny)().eval()
    wanted = followed_by_hand(student, tiny, problem, pairs(LEVEL))
    for kind in (Streets, Hidden):
        found = following.loss(student, batch_of(following, pairs(LEVEL, kind))).item()
        assert found == pytest.approx(wanted, rel=1e-5)


def test_both_is_the_mean_of_the_two(tiny: nn.Module, problem: SemanticSegmentation, fp32: Compute) -> None:
    student = type(tiny)().eval()
    half, whole = (FollowsBase(problem, tiny, target, fp32) for target in ("both", "base"))  # type: ignore[arg-type]
    batch = batch_of(half, pairs(LEVEL))
    own, followed = problem.loss(student, batch[0]).item(), whole.loss(student, batch).item()
    assert half.loss(student, batch).item() == pytest.approx(0.5 * own + 0.5 * followed)


def test_a_frame_that_arrives_smaller_is_compared_at_the_undistorted_size(
    tiny: nn.Module, problem: SemanticSegmentation, fp32: Compute
) -> None:
    following, student = FollowsBase(problem, tiny, "base", fp32), type(tiny)().eval()
    kinds = (Streets, Hidden)
    losses = [following.loss(student, batch_of(following, pairs(SMALLER, kind))).item() for kind in kinds]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert math.isfinite(losses[0])


def test_without_a_label_the_very_same_adaptor_is_found(
    drn: nn.Module, problem: SemanticSegmentation, fp32: Compute
) -> None:
    following = FollowsBase(problem, drn, "base", fp32)
    bound, method = model_size(drn) // 50, Method(recipe=RECIPE)
    one, other = (
        adapt_level(drn, pairs(LEVEL, kind), following, LEVEL, bound, method, compute=fp32)
        for kind in (Streets, Hidden)
    )
    assert one.sha256 == other.sha256
    by_labels = adapt_level(drn, pairs(LEVEL).distorted, problem, LEVEL, bound, method, compute=fp32)
    assert by_labels.sha256 != one.sha256


def test_what_is_followed_comes_closer(drn: nn.Module, problem: SemanticSegmentation, fp32: Compute) -> None:
    following = FollowsBase(problem, drn, "base", fp32)
    samples = pairs(DistortionLevel.parse("brightness:factor=0.1"), Hidden, 12)
    batch, recipe = batch_of(following, samples), Recipe(epochs=4, batch_size=4, optimizer="adam", lr=3e-4)
    tuned = finetune(drn, samples, following, recipe, batchnorm_statistics="frozen", compute=fp32).model
    with torch.no_grad():
        before, after = (following.loss(network.eval(), batch).item() for network in (drn, tuned))
    assert after < before


def test_mirrored_frames_are_mirrored_on_both_sides(
    problem: SemanticSegmentation, tiny: nn.Module, fp32: Compute
) -> None:
    pair = pairs(LEVEL)[0]
    flipped = FollowsBase(problem, tiny, "base", fp32).flip(pair)
    for side in ("distorted", "undistorted"):
        one, other = (np.asarray(getattr(of, side).image) for of in (pair, flipped))
        assert np.array_equal(one[:, ::-1], other)
        assert np.array_equal(getattr(pair, side).target[:, ::-1], getattr(flipped, side).target)


class Detector(nn.Module):
    """Gives what it was made with, and in training a loss that says what truth it was given."""

    def __init__(self, found: dict[str, Tensor]) -> None:
        super().__init__()
        self.found, self.weight = found, nn.Parameter(torch.ones(1))
        self.seen: list[dict[str, Tensor]] = []

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        if targets is None:
            return [dict(self.found) for _ in images]
        self.seen = targets
        return {"loss": self.weight.sum() * sum(target["masks"].sum() for target in targets)}


def test_detections_that_are_sure_become_the_truth(fp32: Compute) -> None:
    problem = InstanceSegmentation(num_classes=9)
    masks = torch.zeros(4, 1, 32, 48)
    masks[0, 0, 2:6, 4:10], masks[1, 0, 10:20, 20:30], masks[3, 0, 5:6, 5:6] = 1.0, 1.0, 1.0
    found = {
        "boxes": torch.tensor([[4.0, 2, 10, 6], [20, 10, 30, 20], [0, 0, 4, 4], [5, 5, 6, 6]]),
        "labels": torch.tensor([1, 2, 1, 2]),
        "scores": torch.tensor([0.9, 0.6, 0.8, 0.4]),  # the third has no pixel, the fourth is not sure
        "masks": masks,
    }
    student = Detector(found).train()
    following = FollowsBase(problem, Detector(found), "base", fp32)
    scenes = with_truth(Streets("train", 2, 0, Camera(size=(48, 32))), "instances")
    for level, scale in ((LEVEL, 1), (SMALLER, 2)):
        samples = Pairs(DistortedDataset(scenes, level), DistortedDataset(scenes, DistortionLevel()))
        loss = following.loss(student, batch_of(following, samples))
        assert [target["labels"].tolist() for target in student.seen] == [[1, 2]] * 2
        assert student.seen[0]["masks"].shape == (2, 32 // scale, 48 // scale)
        wanted = [[4.0, 2, 10, 6], [20, 10, 30, 20]]
        assert student.seen[0]["boxes"].tolist() == [[side / scale for side in box] for box in wanted]
        assert loss.item() == 2 * (24 + 100) / scale**2


@dataclass(frozen=True, kw_only=True)
class Unfollowed:
    """A user's problem that neither classifies nor labels."""

    num_classes: int = 2
    truth = "classes"
    takes_mixed_sizes = False

    def describe(self) -> dict[str, Any]:
        return {"name": "tests.test_targets:Unfollowed", **asdict(self)}


def test_a_problem_that_cannot_follow_is_refused(tiny: nn.Module, fp32: Compute) -> None:
    with pytest.raises(PlanError, match=r"finetune.target: expected labels, because tests\S+:Unfollowed has neither"):
        FollowsBase(Unfollowed(), tiny, "base", fp32)  # type: ignore[arg-type]


def test_processes_that_read_frames_get_no_network(
    problem: SemanticSegmentation, tiny: nn.Module, fp32: Compute
) -> None:
    following = FollowsBase(problem, tiny, "base", fp32)
    sent = pickle.loads(pickle.dumps(following))  # noqa: S301
    assert sent.base is None
    pair = pairs(LEVEL)[0]
    assert torch.equal(sent.collate([pair])[1].images, following.collate([pair])[1].images)
    assert scored_by(following) is problem
    assert scored_by(problem) is problem


@pytest.fixture
def alone(tmp_path: Path, drn: nn.Module) -> Path:
    """A folder of images alone, and a base."""
    for split in ("train", "val", "test"):
        scenes = Streets(split, 4, 0, Camera(size=(48, 32)))
        (tmp_path / split).mkdir()
        for i in range(4):
            scenes.frame(i).save(tmp_path / split / f"{i}.png")
    save_checkpoint(tmp_path / "base.safetensors", drn, {})
    return tmp_path


def plan_of(alone: Path, **more: Any) -> Plan:
    content = {
        "base": {"name": "drn_d_22_quarter", "checkpoint": str(alone / "base.safetensors")},
        "data": {"name": "folder", "root": str(alone), "classes": [f"c{i}" for i in range(9)]},
        "levels": [str(LEVEL)],
        "bound": {"fraction": 0.02},
        "finetune": {"epochs": 1, "batch_size": 2, "optimizer": {"lr": 0.01}, "clip": 1.0},
        "store": str(alone / "store"),
    }
    return Plan.read(content | more, source="test")


def test_images_alone_are_adapted_to_by_the_bases_own_answers(alone: Path) -> None:
    opened = Opened(plan_of(alone))
    assert opened.target == "base"
    frames, problem = opened.frames("test"), opened.problem
    sample = Sample(image=frames.frame(0), target=None, name="")
    with torch.no_grad(), opened.compute.autocast():
        network = opened.compute.place(opened.base()).eval()
        wanted = network(problem.to(problem.collate([sample]), opened.compute).images).argmax(1)
    assert np.array_equal(frames.target(0), wanted[0, :32, :48].numpy())
    said = check_data.run(opened).in_words
    assert "trained without labels, by the base's answers on the undistorted frames" in said
    assert "val and test without labels: figures are agreement with the base on undistorted frames" in said
    pristine = evaluate(opened.base(), opened.samples("test", DistortionLevel()), problem, compute=opened.compute)
    assert pristine.primary == 100.0
    adaptor = adapt_from_plan(opened.plan, LEVEL)
    assert 0 < adaptor.num_values <= adaptor.bound


def test_answers_are_kept_and_made_anew_where_they_were_altered(alone: Path, caplog: Any) -> None:
    frames = Opened(plan_of(alone)).frames("test")
    first = frames.target(1)
    (path,) = (alone / "store" / "answers").rglob("*.npz")
    again = Opened(plan_of(alone)).frames("test")
    assert np.array_equal(again.target(1), first)
    assert "_network" not in vars(again)  # read, not computed
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    third = Opened(plan_of(alone)).frames("test")
    assert np.array_equal(third.target(1), first)
    assert "was altered, and is made anew" in caplog.text
    assert third.digest() == frames.digest() != Opened(plan_of(alone)).frames("train").digest()
    sent = pickle.loads(pickle.dumps(frames))  # noqa: S301
    assert np.array_equal(sent.target(1), first)


def test_a_base_cannot_be_trained_on_images_alone(alone: Path) -> None:
    plan = plan_of(alone, base={"name": "drn_d_22_quarter", "train": {}})
    with pytest.raises(PlanError, match=r"data.root: expected frames with masks, because base.train learns from them"):
        Opened(plan).frames("train")


def test_masks_under_another_name_are_not_passed_over(alone: Path) -> None:
    (alone / "train" / "labels").mkdir()
    with pytest.raises(DataError, match=r"expected index masks in \S+masks, or images alone, but .* the folder labels"):
        Opened(plan_of(alone)).frames("train")


def test_a_detectors_answers_come_back_from_their_file() -> None:
    masks = np.zeros((2, 6, 8), dtype=bool)
    masks[0, 1:3, 2:5], masks[1, 4:, 6:] = True, True
    truth = Instances.of(masks, np.array([1, 2]))
    back = _read(_written(truth))
    for name in ("masks", "labels", "boxes", "crowd"):
        assert np.array_equal(getattr(back, name), getattr(truth, name))
    none = _read(_written(Instances.of(masks[:0], np.array([], dtype=int))))
    assert none.masks.shape == (0, 6, 8)
    assert _read(_written(3)) == 3


def test_a_plan_that_follows_the_base_follows_nothing_else(alone: Path) -> None:
    with pytest.raises(PlanError, match=r"partial.distill: expected none beside finetune.target: base"):
        plan_of(alone, finetune={"target": "base"}, partial={"distill": 0.5})


def test_labels_and_answers_are_told_apart_by_split(alone: Path) -> None:
    for split in ("val", "test"):
        (alone / split / "images").mkdir()
        (alone / split / "masks").mkdir()
        for i in range(4):
            (alone / split / f"{i}.png").rename(alone / split / "images" / f"{i}.png")
            mask = np.full((32, 48), 255, dtype=np.uint8)
            mask[:16] = i
            Image.fromarray(mask).save(alone / split / "masks" / f"{i}.png")
    data = {"name": "folder", "root": str(alone), "classes": [f"c{i}" for i in range(9)], "ignore": 255}
    opened = Opened(plan_of(alone, data=data))
    said = check_data.run(opened).in_words
    assert "trained without labels" in said
    assert "agreement" not in said
    assert opened.problem.ignore_index == 255  # type: ignore[attr-defined]
    score = evaluate(opened.base(), opened.samples("test", LEVEL), opened.problem, compute=opened.compute)
    assert 0.0 <= score.primary < 100.0
    for split in ("val", "test"):
        (alone / split / "masks").rename(alone / f"{split}-masks")
    (alone / "train" / "images").mkdir()
    (alone / "train" / "masks").mkdir()
    for i in range(4):
        (alone / "train" / f"{i}.png").rename(alone / "train" / "images" / f"{i}.png")
        Image.new("L", (48, 32)).save(alone / "train" / "masks" / f"{i}.png")
    said = check_data.run(Opened(plan_of(alone, data=data))).in_words
    assert "val and test without labels: figures are agreement with the base" in said
    assert "trained without labels" not in said


def test_answers_of_a_base_that_computes_otherwise_are_made_anew(alone: Path) -> None:
    first = Opened(plan_of(alone)).frames("test")
    first.target(0)
    other = Opened(plan_of(alone, precision="fp32", threads=2)).frames("test")
    assert other.digest() != first.digest()
    other.target(0)
    assert len(list((alone / "store" / "answers").rglob("*.npz"))) == 2


def test_images_alone_and_a_full_fine_tune_to_follow_are_refused(alone: Path) -> None:
    with pytest.raises(PlanError, match=r"partial.distill: expected none where fine-tunes follow the base"):
        _ = Opened(plan_of(alone, partial={"distill": 0.5})).target


def test_a_module_that_reads_running_statistics_itself_is_found(
    problem: SemanticSegmentation, samples: DistortedDataset, fp32: Compute
) -> None:
    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 9, 1)

        def forward(self, x: Tensor) -> Tensor:
            assert self.bn.running_var is not None
            return self.head(self.bn(self.conv(x)) / (self.bn.running_var.mean() + 1))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    base = Reading().eval()
    with pytest.raises(AdaptorError, match="folded statistics to compute what was trained, but head gives something"):
        adapt_level(base, samples, problem, LEVEL, 40, Method(recipe=RECIPE), compute=fp32)
