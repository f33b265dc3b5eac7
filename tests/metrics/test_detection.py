"""Average precision against pycocotools, on the same detections."""

import contextlib
import dataclasses
import io
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from gearnn.datasets import Instances
from gearnn.metrics import Detections, InstanceScore

HEIGHT, WIDTH = 40, 56
NAMES = ("ap", "ap50", "ap75")


def blob(rng: np.random.Generator) -> np.ndarray:
    """An ellipse, at least one pixel large."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    y, x, a, b = rng.uniform(0, HEIGHT), rng.uniform(0, WIDTH), rng.uniform(2, 14), rng.uniform(2, 14)
    mask = ((rows - y) / a) ** 2 + ((columns - x) / b) ** 2 <= 1
    mask[int(y), int(x)] = True
    return mask


def shaken(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A mask moved by a few pixels, so that overlaps of all sizes occur."""
    moved = np.roll(mask, rng.integers(-3, 4, 2), axis=(0, 1))
    return moved if moved.any() else mask


def frame(rng: np.random.Generator, num_classes: int, *, crowds: bool) -> tuple[Detections, Instances]:
    """Truth, and detections near it and elsewhere; scores repeat, so that ties occur."""
    number = int(rng.integers(0, 6))
    masks = np.array([blob(rng) for _ in range(number)], dtype=bool).reshape(-1, HEIGHT, WIDTH)
    truth = Instances.of(masks, rng.integers(1, num_classes, number))
    if crowds:
        truth = Instances(masks=truth.masks, labels=truth.labels, boxes=truth.boxes, crowd=rng.random(number) < 0.3)
    found = [shaken(mask, rng) for mask in masks for _ in range(int(rng.integers(0, 3)))]
    found += [blob(rng) for _ in range(int(rng.integers(0, 4)))]
    labels = [int(rng.integers(1, num_classes)) for _ in found]
    stack = np.array(found, dtype=bool).reshape(-1, HEIGHT, WIDTH)
    boxes = Instances.of(stack, np.array(labels, dtype=int)).boxes + rng.uniform(-1, 1, (len(found), 4))
    detections = Detections(
        boxes=torch.from_numpy(boxes).float(),
        labels=torch.tensor(labels, dtype=torch.int64),
        scores=torch.from_numpy(np.round(rng.random(len(found)), 1)).float(),
        masks=torch.from_numpy(stack),
    )
    return detections, truth


def reference(frames: list[tuple[Detections, Instances]], num_classes: int, kind: str) -> list[float]:
    """AP, AP50 and AP75 in percent by pycocotools."""
    truths: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for index, (detections, truth) in enumerate(frames, start=1):
        for mask, label, box, crowd in zip(truth.masks, truth.labels, truth.boxes, truth.crowd, strict=True):
            code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            truths.append({
                "id": len(truths) + 1, "image_id": index, "category_id": int(label), "iscrowd": int(crowd),
                "segmentation": code, "area": float(mask.sum()), "bbox": xywh(box),
            })  # fmt: skip
        for i in range(len(detections.scores)):
            entry = {"image_id": index, "category_id": int(detections.labels[i]), "score": float(detections.scores[i])}
            if kind == "bbox":
                entry["bbox"] = xywh(detections.boxes[i].numpy())
            else:
                entry["segmentation"] = coco_mask.encode(
                    np.asfortranarray(detections.masks[i].numpy().astype(np.uint8))
                )
            found.append(entry)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i, "height": HEIGHT, "width": WIDTH} for i in range(1, len(frames) + 1)],
            "categories": [{"id": c, "name": str(c)} for c in range(1, num_classes)],
            "annotations": truths,
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [100 * float(value) for value in evaluation.stats[:3]]


def xywh(box: np.ndarray) -> list[float]:
    x1, y1, x2, y2 = (float(side) for side in box)
    return [x1, y1, x2 - x1, y2 - y1]


@pytest.mark.parametrize("crowds", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_average_precision_is_that_of_pycocotools(seed: int, crowds: bool) -> None:
    rng = np.random.default_rng(seed)
    num_classes = 2 + seed % 3
    frames = [frame(rng, num_classes, crowds=crowds) for _ in range(30)]
    score = InstanceScore(num_classes)
    for detections, truth in frames:
        score.update(detections, truth)
    for ours, theirs in (("mask", "segm"), ("box", "bbox")):
        expected = dict(zip((f"{ours}_{name}" for name in NAMES), reference(frames, num_classes, theirs), strict=True))
        assert {k: v for k, v in score.figures.items() if k in expected} == pytest.approx(expected, abs=1e-6)
    assert 0 < score.figures["mask_ap"] < 100
    assert score.primary == score.figures["mask_ap"]


def test_at_most_100_detections_of_a_class_count_in_a_frame() -> None:
    rng = np.random.default_rng(3)
    frames = []
    for _ in range(3):
        _, truth = frame(rng, 2, crowds=False)
        masks = np.array([blob(rng) for _ in range(130)] + [shaken(m, rng) for m in truth.masks])
        frames.append((
            Detections(
                boxes=torch.from_numpy(Instances.of(masks, np.ones(len(masks))).boxes),
                labels=torch.ones(len(masks), dtype=torch.int64),
                scores=torch.linspace(1, 0.1, len(masks)),
                masks=torch.from_numpy(masks),
            ),
            truth,
        ))  # fmt: skip
    score = InstanceScore(2)
    for detections, truth in frames:
        score.update(detections, truth)
    assert score.figures["box_ap50"] == pytest.approx(reference(frames, 2, "bbox")[1], abs=1e-6)


def test_perfect_detections_score_100_and_none_score_0() -> None:
    rng = np.random.default_rng(1)
    perfect, nothing = InstanceScore(3), InstanceScore(3)
    masks = np.array([blob(rng) for _ in range(3)])
    truth = Instances.of(masks, np.array([1, 2, 2]))
    found = Detections(
        boxes=torch.from_numpy(truth.boxes),
        labels=torch.from_numpy(truth.labels),
        scores=torch.ones(3),
        masks=torch.from_numpy(masks),
    )
    perfect.update(found, truth)
    nothing.update(empty(), truth)
    assert list(perfect.figures.values()) == pytest.approx([100] * 6)
    assert perfect.per_class[0] is None
    assert perfect.per_class[1:] == pytest.approx([100, 100])
    assert set(nothing.figures.values()) == {0.0}


def test_a_frame_without_instances_punishes_false_alarms_only() -> None:
    rng = np.random.default_rng(2)
    no_instances = Instances.of(np.zeros((0, HEIGHT, WIDTH), bool), np.zeros(0, int))
    silent, alarmed = InstanceScore(2), InstanceScore(2)
    truth = Instances.of(blob(rng)[None], np.array([1]))
    right = detection(truth.masks, score=0.5)
    for score in (silent, alarmed):
        score.update(right, truth)
    silent.update(empty(), no_instances)
    alarmed.update(detection(blob(rng)[None], score=0.9), no_instances)
    assert silent.primary == pytest.approx(100)
    assert alarmed.primary == pytest.approx(50, abs=0.5)
    assert np.isnan(InstanceScore(2).primary)


def test_an_interval_holds_the_figure_and_repeats() -> None:
    rng = np.random.default_rng(5)
    score = InstanceScore(3)
    for _ in range(25):
        score.update(*frame(rng, 3, crowds=False))
    interval = score.interval(num_draws=200)
    assert interval.low < score.primary < interval.high
    assert interval == score.interval(num_draws=200)


def test_an_interval_of_equal_frames_is_a_point() -> None:
    rng = np.random.default_rng(5)
    score, (found, truth) = InstanceScore(3), frame(rng, 3, crowds=False)
    ranked = dataclasses.replace(found, scores=torch.linspace(1, 0, len(found.scores)))
    for _ in range(5):
        score.update(ranked, truth)
    interval = score.interval(num_draws=50)
    assert interval.low == pytest.approx(score.primary)
    assert interval.high == pytest.approx(score.primary)


def test_no_mask_is_kept_after_a_frame() -> None:
    rng = np.random.default_rng(5)
    score = InstanceScore(3)
    for _ in range(20):
        score.update(*frame(rng, 3, crowds=False))
    kept = [a for kind in score._frames.values() for f in kind for m in f.values() for a in (m.scores, m.hits)]
    assert max(array.size for array in kept) <= 10 * 100


def test_masks_of_another_size_are_told() -> None:
    truth = Instances.of(np.ones((1, 4, 4), bool), np.array([1]))
    with pytest.raises(ValueError, match=r"expected masks of \[4, 4\], but got \[40, 56\]"):
        InstanceScore(2).update(empty(), truth)


def detection(masks: np.ndarray, *, score: float) -> Detections:
    return Detections(
        boxes=torch.from_numpy(Instances.of(masks, np.ones(len(masks))).boxes),
        labels=torch.ones(len(masks), dtype=torch.int64),
        scores=torch.full((len(masks),), score),
        masks=torch.from_numpy(masks),
    )


def empty() -> Detections:
    return detection(np.zeros((0, HEIGHT, WIDTH), bool), score=0)


def test_a_split_without_frames_has_an_interval_of_no_numbers() -> None:
    assert np.isnan(InstanceScore(3).interval(num_draws=3).low)
