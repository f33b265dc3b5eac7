"""What problems offer a benchmark besides what training needs."""

import numpy as np
import pytest
import torch

from gearnn.datasets import Camera, DistortedDataset, Instances, with_truth
from gearnn.datasets.streets import Streets
from gearnn.evaluation.frequency import frequency_response
from gearnn.levels import DistortionLevel
from gearnn.machine.compute import Compute
from gearnn.metrics import Detections
from gearnn.models import build_model
from gearnn.problems.classification import Classification
from gearnn.problems.colours import overlay
from gearnn.problems.instances import InstanceSegmentation
from gearnn.problems.problem import Classifying, Differentiable, Drawable, Problem
from gearnn.problems.segmentation import SemanticSegmentation
from tests.shared.nets import TINY_MASK_RCNN

CHANNELS = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
SEGMENTATION = SemanticSegmentation(num_classes=3, ignore_index=2, **CHANNELS)  # type: ignore[arg-type]
CLASSES = Classification(num_classes=3, **CHANNELS)  # type: ignore[arg-type]
INSTANCES = InstanceSegmentation(num_classes=2)


@pytest.mark.parametrize(
    ("problem", "offers"),
    [
        (SEGMENTATION, {Differentiable, Classifying, Drawable}),
        (CLASSES, {Differentiable, Classifying}),
        (INSTANCES, {Differentiable, Drawable}),
    ],
)
def test_what_each_problem_offers(problem: Problem, offers: set[type]) -> None:
    assert {p for p in (Differentiable, Classifying, Drawable) if isinstance(problem, p)} == offers


def test_classes_cover_the_frame_and_pixels_without_truth_are_black() -> None:
    frame = np.full((2, 3, 3), 255, np.uint8)
    drawn = SEGMENTATION.draw(frame, torch.tensor([[0, 0, 1], [1, 2, 2]]))
    assert drawn.shape == (2, 3, 3)
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) == 3
    assert (drawn[1, 1] == 64).all()  # a quarter of the frame shines through
    small = SEGMENTATION.draw(frame[:1, :1], torch.zeros(4, 6, dtype=torch.int64))
    assert small.shape == (4, 6, 3)


def test_instances_are_drawn_over_a_frame_that_stays_as_it_is_elsewhere() -> None:
    frame = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    masks = np.zeros((2, 6, 8), bool)
    masks[0, 1:3, 1:4] = masks[1, 4:6, 5:8] = True
    truth = INSTANCES.draw(frame, Instances.of(masks, np.array([1, 1])))
    found = Detections(
        boxes=torch.zeros(2, 4),
        labels=torch.ones(2, dtype=torch.int64),
        scores=torch.tensor([0.9, 0.1]),
        masks=torch.from_numpy(masks),
    )
    predicted = INSTANCES.draw(frame, found)
    np.testing.assert_array_equal(truth[~masks.any(0)], frame[~masks.any(0)])
    assert not np.array_equal(truth[1, 1], truth[5, 7])
    np.testing.assert_array_equal(predicted[masks[0]], truth[masks[0]])
    np.testing.assert_array_equal(predicted[~masks[0]], frame[~masks[0]])  # 0.1 is too unsure to be shown


def test_a_detectors_response_is_measured_in_the_mode_in_which_it_has_losses(fp32: Compute) -> None:
    torch.manual_seed(0)
    network = build_model("mask_rcnn", 9, TINY_MASK_RCNN).eval()
    scenes = with_truth(Streets("test", 2, 0, Camera(size=(96, 64))), "instances")
    samples = DistortedDataset(scenes, DistortionLevel())
    problem = InstanceSegmentation(num_classes=9)
    first, second = (frequency_response(network, samples, problem, compute=fp32) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.shape == (3, 8, 8)
    assert (first > 0).all()
    assert not any(module.training for module in network.modules())


def test_colours_repeat_where_there_are_more_classes() -> None:
    frame = np.zeros((1, 2, 3), np.uint8)
    drawn = overlay(frame, np.array([[0, 20]]), opacity=1.0)
    np.testing.assert_array_equal(drawn[0, 0], drawn[0, 1])
