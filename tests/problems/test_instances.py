import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from gearnn.adaptor import Adaptor
from gearnn.algorithm1 import Method, adapt_level
from gearnn.datasets import Camera, DistortedDataset, Instances, Sample, with_truth
from gearnn.datasets.streets import Streets
from gearnn.errors import AdaptorError, DataError, PlanError
from gearnn.evaluate import evaluate
from gearnn.finetune import finetune
from gearnn.gearbox import GearBox
from gearnn.layers import layers_of, model_size
from gearnn.levels import DistortionLevel
from gearnn.machine.compute import Compute
from gearnn.metrics import Detections
from gearnn.models import build_model
from gearnn.problems.instances import InstanceSegmentation
from gearnn.recipe import Recipe
from tests.shared.nets import TINY_MASK_RCNN

PROBLEM = InstanceSegmentation(num_classes=9)
LEVELS = ("jpeg:quality=10", "jpeg:quality=40")


def scenes(level: str, number: int = 6) -> DistortedDataset:
    return DistortedDataset(
        with_truth(Streets("train", number, 0, Camera(size=(96, 64))), "instances"), DistortionLevel.parse(level)
    )


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return build_model("mask_rcnn", 9, TINY_MASK_RCNN)


@pytest.fixture(scope="module")
def adaptors(network: nn.Module) -> list[Adaptor]:
    recipe = Recipe(epochs=1, batch_size=3, lr=0.01, clip=1.0)
    bound = int(0.02 * model_size(network))
    return [adapt_level(network, scenes(level), PROBLEM, level, bound, Method(recipe=recipe)) for level in LEVELS]


def sample(width: int = 20, height: int = 12) -> Sample:
    masks = np.zeros((2, height, width), bool)
    masks[0, 2:5, 1:4] = masks[1, 6:11, 10:17] = True
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    return Sample(image=image, target=Instances.of(masks, np.array([1, 2])), name="frame-7")


def same(one: Detections, other: Detections) -> bool:
    return all(torch.equal(getattr(one, n), getattr(other, n)) for n in ("boxes", "labels", "scores", "masks"))


# The truth


def test_a_flip_mirrors_frame_boxes_and_masks() -> None:
    one = sample()
    flipped = PROBLEM.flip(one)
    assert np.array_equal(np.asarray(flipped.image), np.asarray(one.image)[:, ::-1])
    again = Instances.of(flipped.target.masks, one.target.labels)
    assert np.array_equal(again.boxes, flipped.target.boxes)
    assert np.array_equal(PROBLEM.flip(flipped).target.masks, one.target.masks)


def test_the_losses_are_torchvisions_own_summed(network: nn.Module) -> None:
    one = sample(96, 64)
    targets = [{
        "boxes": torch.from_numpy(one.target.boxes),
        "labels": torch.from_numpy(one.target.labels),
        "masks": torch.from_numpy(one.target.masks).to(torch.uint8),
    }]  # fmt: skip
    image = torch.from_numpy(np.array(one.image)).permute(2, 0, 1) / 255
    network.train()
    torch.manual_seed(3)
    ours = PROBLEM.loss(network, PROBLEM.collate([one]))
    torch.manual_seed(3)
    theirs = network([image], targets)
    network.eval()
    assert set(theirs) == {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}
    assert torch.allclose(ours, sum(theirs.values()))


class Recorder(nn.Module):
    """Keeps what it is called with."""

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        self.images, self.targets = images, targets
        return {"loss": torch.zeros(())}


def test_the_truth_is_scaled_to_a_frame_that_arrives_smaller_and_vanished_instances_are_left_out() -> None:
    one = sample(40, 24)
    masks = np.concatenate([one.target.masks, np.zeros((1, 24, 40), bool)])
    masks[2, 0, 0] = True  # a single pixel, which nearest sampling at half the size does not hit
    target = Instances.of(masks, np.array([1, 2, 3]))
    small = Sample(image=one.image.resize((20, 12)), target=target, name="half")
    recorder = Recorder()
    PROBLEM.loss(recorder, PROBLEM.collate([small]))
    given = recorder.targets[0]
    assert given["masks"].shape == (2, 12, 20)
    assert given["labels"].tolist() == [1, 2]
    assert torch.equal(given["boxes"], torch.from_numpy(target.boxes[:2]) / 2)


def test_a_frame_without_instances_trains_and_scores(network: nn.Module) -> None:
    nothing = Instances.of(np.zeros((0, 64, 96), bool), np.zeros(0, int))
    empty = Sample(image=sample(96, 64).image, target=nothing, name="empty")
    network.train()
    assert torch.isfinite(PROBLEM.loss(network, PROBLEM.collate([empty, sample(96, 64)])))
    network.eval()
    score = evaluate(copy.deepcopy(network), [empty, sample(96, 64)], PROBLEM)  # type: ignore[arg-type]
    assert 0 <= score.figures["box_ap"] <= 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"boxes": np.array([[1, 2, 4, 5], [5, 6, 5, 9]], np.float32)},
            r"with an area, but got \[5.0, 6.0, 5.0",
        ),
        ({"boxes": np.array([[1, 2, 4, 5], [5, 6, 4, 9]], np.float32)}, "frame frame-7: expected boxes x1, y1, x2, y2"),
        ({"labels": np.array([1, 9])}, "frame frame-7: expected classes 1 to 8, but got 9"),
        ({"labels": np.array([0, 1])}, "frame frame-7: expected classes 1 to 8, but got 0"),
        ({"labels": np.array([1])}, r"expected as many masks .*\[\[2, 12, 20\], \[1\], \[2, 4\], \[2\]\]"),
        (
            {"masks": np.ones((2, 5, 5), bool)},
            "expected masks at least as large as the frame, 20x12, but got 5x5",
        ),
    ],
)
def test_instances_that_cannot_be_learnt_from_are_told(changes: dict[str, Any], message: str) -> None:
    one = sample()
    target = Instances(**{n: getattr(one.target, n) for n in ("masks", "labels", "boxes", "crowd")} | changes)
    with pytest.raises(DataError, match=message):
        PROBLEM.collate([Sample(image=one.image, target=target, name=one.name)])


# Predictions


def test_a_frames_detections_do_not_depend_on_the_batch(network: nn.Module, fp32: Compute) -> None:
    frames = [sample(96, 64), sample(60, 90), sample(96, 64)]
    with torch.inference_mode():
        together = PROBLEM.predict(network, PROBLEM.collate(frames))
        alone = [PROBLEM.predict(network, PROBLEM.collate([frame]))[0] for frame in frames]
    assert [d.masks.shape[1:] for d in together] == [(64, 96), (90, 60), (64, 96)]
    for one, other in zip(together, alone, strict=True):
        assert len(one.scores) > 0
        assert torch.allclose(one.boxes, other.boxes, atol=1e-3)
        assert torch.allclose(one.scores, other.scores, atol=1e-5)


def test_detections_of_smaller_frames_are_scaled_to_the_label(network: nn.Module) -> None:
    large = sample(192, 128)
    small = Sample(image=large.image.resize((96, 64)), target=large.target, name="half")
    bare = Sample(image=small.image, target=None, name="bare")
    with torch.inference_mode():
        scaled = PROBLEM.predict(network, PROBLEM.collate([small]))[0]
        as_is = PROBLEM.predict(network, PROBLEM.collate([bare]))[0]
    assert scaled.masks.shape[1:] == (128, 192)
    assert as_is.masks.shape[1:] == (64, 96)
    assert torch.allclose(scaled.boxes, 2 * as_is.boxes)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda images, targets=None: torch.zeros(1), "a dictionary of losses in training, but got Tensor"),
        (lambda images, targets=None: {"loss": torch.zeros(2)}, "a dictionary of losses in training, but got dict"),
    ],
)
def test_a_network_without_losses_is_told(network: Callable[..., Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        PROBLEM.loss(network, PROBLEM.collate([sample()]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda images: torch.zeros(1), "a list of 1 dictionaries in evaluation, but got Tensor"),
        (lambda images: [{"boxes": torch.zeros(0, 4), "scores": torch.zeros(0)}], "the network's lack labels, masks"),
    ],
)
def test_a_network_without_detections_is_told(network: Callable[..., Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        PROBLEM.predict(network, PROBLEM.collate([sample()]))  # type: ignore[arg-type]


def test_an_answer_numbers_the_sure_instances_with_the_best_on_top() -> None:
    masks = torch.zeros(3, 4, 4, dtype=torch.bool)
    masks[0, :2], masks[1, 1:3], masks[2] = True, True, True
    answer = PROBLEM.answer(
        Detections(
            boxes=torch.tensor([[0, 0, 4, 2], [0, 1, 4, 3], [0, 0, 4, 4.0]]),
            labels=torch.tensor([1, 2, 1]),
            scores=torch.tensor([0.9, 0.6, 0.2]),
            masks=masks,
        )
    )
    assert answer.text == "2 objects"
    assert answer.mask is not None
    assert answer.mask[:, 0].tolist() == [1, 1, 2, 0]
    assert answer.facts["objects"][1] == {"class": 2, "score": 0.6, "box": [0.0, 1.0, 4.0, 3.0]}
    assert len(answer.facts["objects"]) == 3


# Algorithm 1 and the gearbox, which did not change for it


def test_an_adaptor_changes_its_layers_only_and_stays_below_its_bound(
    network: nn.Module, adaptors: list[Adaptor]
) -> None:
    for adaptor in adaptors:
        assert 0 < adaptor.num_values <= int(0.02 * model_size(network))
        assert {layer.name for layer in layers_of(network)} >= set(adaptor.layers)
        moved = [n for n, t in adaptor.tensors.items() if not torch.equal(t, network.state_dict()[n])]
        assert moved


def test_gears_share_the_bases_tensors_and_a_mixed_stream_equals_each_levels_own_network(
    network: nn.Module, adaptors: list[Adaptor]
) -> None:
    gearbox = GearBox(network, adaptors, PROBLEM, batch_size=1)  # as many frames at once as the networks beside it
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for adaptor in adaptors:
        gear = gearbox.model(adaptor.level).state_dict()
        own = {name for name in gear if gear[name].data_ptr() != network.state_dict()[name].data_ptr()}
        assert own == set(adaptor.tensors)
    stream = [scenes(level).encoded(i) for i in range(4) for level in (*LEVELS, "jpeg:quality=100")]
    answers = gearbox.infer(stream)
    assert [str(a.used) for a in answers[:3]] == [*LEVELS, "jpeg:quality=100"]
    for data, answer in zip(stream, answers, strict=True):
        alone = network
        for adaptor in adaptors:
            if adaptor.level == answer.used:
                alone = adaptor.apply(network)
        assert same(answer.prediction, GearBox(alone, [], PROBLEM).infer([data], level="pristine")[0].prediction)
    for one, other in zip(answers, GearBox(network, adaptors, PROBLEM).infer(stream), strict=True):
        best, best_together = one.prediction.scores[:1], other.prediction.scores[:1]  # batches round differently
        torch.testing.assert_close(best_together, best, rtol=1e-3, atol=1e-3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert gearbox.model("pristine") is network
    assert not same(answers[0].prediction, gearbox.infer(stream[:1], level="pristine", trust_level=True)[0].prediction)


def test_adaptors_of_another_network_are_refused(adaptors: list[Adaptor]) -> None:
    torch.manual_seed(9)
    other = build_model("mask_rcnn", 9, TINY_MASK_RCNN)
    with pytest.raises(AdaptorError, match=r"expected the base with fingerprint [0-9a-f]{16}..., but got one with"):
        GearBox(other, adaptors)


def test_two_fine_tunes_at_a_time_give_what_one_gives(network: nn.Module, fp32: Compute) -> None:
    from concurrent.futures import ThreadPoolExecutor

    recipe = Recipe(epochs=1, batch_size=2, lr=0.01, clip=1.0)

    def tune(level: str) -> dict[str, Tensor]:
        return finetune(network, scenes(level, 4), PROBLEM, recipe, compute=fp32).model.state_dict()

    torch.set_num_threads(1)
    alone = [tune(level) for level in LEVELS]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(tune, LEVELS))
    for one, other in zip(alone, together, strict=True):
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_fine_tune_repeats_after_a_crash(network: nn.Module, fp32: Compute, tmp_path: Path) -> None:
    recipe = Recipe(epochs=2, batch_size=2, lr=0.01, clip=1.0)
    whole = finetune(network, scenes(LEVELS[0], 4), PROBLEM, recipe, compute=fp32)

    def crash(progress: Any) -> None:
        if progress.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(
            network, scenes(LEVELS[0], 4), PROBLEM, recipe, compute=fp32, checkpoint=tmp_path / "c.pt", on_step=crash
        )
    resumed = finetune(network, scenes(LEVELS[0], 4), PROBLEM, recipe, compute=fp32, checkpoint=tmp_path / "c.pt")
    states = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
