"""Instance segmentation and detection: boxes, classes and masks of objects."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from gearnn.datasets.frames import Sample
from gearnn.datasets.instances import Instances
from gearnn.errors import DataError, PlanError
from gearnn.machine.compute import Compute
from gearnn.metrics import Detections, InstanceScore
from gearnn.problems.answer import Answer
from gearnn.problems.colours import overlay

_SURE = 0.5
"""Score from which on a detection counts as truth, where a base labels frames."""

_OUTPUTS = ("boxes", "labels", "scores", "masks")
_SHOWN = 0.5


@dataclass(frozen=True, kw_only=True)
class Frames:
    """Frames of any sizes.

    Attributes:
        images: RGB in [0, 1], float32 [3, H, W] each; the network normalises and scales them.
        targets: their instances at the size of the label; None for frames without truth.
    """

    images: list[Tensor]
    targets: list[Instances] | None


@dataclass(frozen=True, kw_only=True)
class InstanceSegmentation:
    """Boxes, classes and masks; the losses are the network's own, summed; mask AP.

    The network is called as torchvision's detectors are: in training ``model(images, targets)`` gives
    a dictionary of losses, in evaluation ``model(images)`` one dictionary of ``boxes``, ``labels``,
    ``scores`` and ``masks`` a frame. Frames of one size run together, others apart, so that a frame's
    detections do not depend on those beside it.

    Attributes:
        num_classes: C, with the background.
        mask_threshold: probability from which on a pixel belongs to a mask.
    """

    num_classes: int
    mask_threshold: float = 0.5

    truth = "instances"
    takes_mixed_sizes = True
    loss_needs_training = True

    def __post_init__(self) -> None:
        if not isinstance(self.mask_threshold, float | int) or not 0 < self.mask_threshold < 1:
            raise PlanError(
                f"instance_segmentation: expected a mask_threshold between 0 and 1, but got {self.mask_threshold!r}"
            )

    def describe(self) -> dict[str, Any]:
        return {"name": "instance_segmentation", **asdict(self)}

    def flip(self, sample: Sample) -> Sample:
        mirrored = sample.image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if sample.target is None:
            return Sample(image=mirrored, target=None, name=sample.name)
        truth: Instances = sample.target
        width = truth.masks.shape[2]
        boxes = truth.boxes.copy()
        boxes[:, [0, 2]] = width - truth.boxes[:, [2, 0]]
        target = Instances(masks=truth.masks[:, :, ::-1], labels=truth.labels, boxes=boxes, crowd=truth.crowd)
        return Sample(image=mirrored, target=target, name=sample.name)

    def collate(self, samples: Sequence[Sample]) -> Frames:
        """See :meth:`gearnn.problems.problem.Problem.collate`.

        Raises:
            DataError: instances that a network cannot learn from; the frame is named.
        """
        images = [torch.from_numpy(np.array(s.image)).permute(2, 0, 1).float().div_(255.0) for s in samples]
        if any(sample.target is None for sample in samples):
            return Frames(images=images, targets=None)
        for sample in samples:
            sample.target.check(sample.name, self.num_classes)
            _check_shape(sample)
        return Frames(images=images, targets=[sample.target for sample in samples])

    def to(self, batch: Frames, compute: Compute) -> Frames:
        return Frames(images=[image.to(compute.device, non_blocking=True) for image in batch.images],
                      targets=batch.targets)  # fmt: skip

    def loss(self, model: nn.Module, batch: Frames) -> Tensor:
        assert batch.targets is not None, "training needs truth"
        targets = [_target(truth, image) for truth, image in zip(batch.targets, batch.images, strict=True)]
        losses = model(batch.images, targets)
        if not isinstance(losses, Mapping) or not all(isinstance(v, Tensor) and v.ndim == 0 for v in losses.values()):
            raise PlanError(
                f"instance_segmentation: expected model(images, targets) to give a dictionary of losses in training, "
                f"but got {type(losses).__name__}"
            )
        return torch.stack([loss.float() for loss in losses.values()]).sum()

    def pixels(self, batch: Frames) -> list[Tensor]:
        return list(batch.images)

    def with_pixels(self, batch: Frames, pixels: Sequence[Tensor]) -> Frames:
        return Frames(images=list(pixels), targets=batch.targets)

    def predict(self, model: nn.Module, batch: Frames) -> list[Detections]:
        """Detections of every frame, best first, at the size of its label, else of the frame."""
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(batch.images):
            by_size.setdefault(tuple(image.shape), []).append(index)
        found: dict[int, Detections] = {}
        for indices in by_size.values():
            outputs = model([batch.images[i] for i in indices])
            if not isinstance(outputs, list) or len(outputs) != len(indices):
                raise PlanError(
                    f"instance_segmentation: expected model(images) to give a list of {len(indices)} dictionaries in "
                    f"evaluation, but got {type(outputs).__name__}"
                )
            for index in reversed(indices):  # a frame's masks of floats are let go as soon as they are bits
                found[index] = self._detections(outputs.pop(), _label_size(batch, index))
            del outputs
        return [found[index] for index in range(len(batch.images))]

    def labelled(self, batch: Frames, predictions: Sequence[Detections]) -> Frames:
        """The batch with detections of a score of at least 0.5 as truth; see :mod:`gearnn.targets`."""
        return Frames(images=batch.images, targets=[_as_truth(found) for found in predictions])

    def truths(self, batch: Frames) -> list[Instances]:
        assert batch.targets is not None, "scoring needs truth"
        return batch.targets

    def new_score(self) -> InstanceScore:
        return InstanceScore(self.num_classes)

    def draw(self, frame: np.ndarray, shown: Detections | Instances) -> np.ndarray:
        if isinstance(shown, Detections):
            mask = self.answer(shown).mask
            assert mask is not None, "instances have masks"
        else:
            mask = np.zeros(shown.masks.shape[1:], dtype=np.uint16)
            for number, own in enumerate(shown.masks, start=1):
                mask[own.astype(bool)] = number
        return overlay(frame, mask, clear=0)

    def answer(self, prediction: Detections) -> Answer:
        """Instances with a score of at least 0.5 in the mask, numbered from 1, the best on top; all in the facts."""
        sure = int((prediction.scores >= _SHOWN).sum())
        mask = np.zeros(prediction.masks.shape[1:], dtype=np.uint8 if sure < 256 else np.uint16)
        for number in range(sure, 0, -1):
            mask[prediction.masks[number - 1].numpy()] = number
        objects = [
            {"class": label, "score": round(score, 4), "box": [round(side, 2) for side in box]}
            for box, label, score in zip(
                prediction.boxes.tolist(), prediction.labels.tolist(), prediction.scores.tolist(), strict=True
            )
        ]
        return Answer(text=f"{sure} objects", mask=mask, facts={"objects": objects})

    def _detections(self, output: Any, size: tuple[int, int] | None) -> Detections:
        missing = [key for key in _OUTPUTS if not isinstance(output, Mapping) or key not in output]
        if missing:
            raise PlanError(
                f"instance_segmentation: expected dictionaries with {', '.join(_OUTPUTS)}, "
                f"but the network's lack {', '.join(missing)}"
            )
        order = output["scores"].float().argsort(descending=True, stable=True)
        boxes = output["boxes"].float()
        height, width = output["masks"].shape[-2:]
        if size is not None:
            boxes = boxes * torch.tensor([size[1] / width, size[0] / height] * 2, device=boxes.device)
        if size is None or size == (height, width):
            masks = (output["masks"][:, 0] > self.mask_threshold).cpu()
            masks = masks if order.equal(torch.arange(len(order), device=order.device)) else masks[order.cpu()]
        else:  # one by one, because 100 large masks of floats take much memory
            masks = torch.stack([self._scaled(output["masks"][i], size) for i in order.tolist()] or [_no_mask(size)])
            masks = masks[: len(order)]
        return Detections(
            boxes=boxes[order].cpu(),
            labels=output["labels"][order].cpu(),
            scores=output["scores"][order].float().cpu(),
            masks=masks,
        )

    def _scaled(self, probabilities: Tensor, size: tuple[int, int]) -> Tensor:
        """A mask bool [H, W] of probabilities [1, h, w]."""
        scaled = F.interpolate(probabilities[None].float(), size=size, mode="bilinear", align_corners=False)
        return (scaled[0, 0] > self.mask_threshold).cpu()


def _as_truth(found: Detections) -> Instances:
    """Detections that are sure, as instances; those without a pixel are none."""
    sure = (found.scores >= _SURE) & found.masks.flatten(1).any(dim=1)
    return Instances.of(found.masks[sure].numpy(), found.labels[sure].numpy())


def _check_shape(sample: Sample) -> None:
    """Masks have the size of the frame, or that of the larger frame from which a level made it."""
    (width, height), (rows, columns) = sample.image.size, sample.target.masks.shape[1:]
    if columns < width or rows < height:
        raise DataError(
            f"frame {sample.name}: expected masks at least as large as the frame, {width}x{height}, "
            f"but got {columns}x{rows}"
        )


def _no_mask(size: tuple[int, int]) -> Tensor:
    return torch.zeros(size, dtype=torch.bool)


def _label_size(batch: Frames, index: int) -> tuple[int, int] | None:
    if batch.targets is None:
        return None
    height, width = batch.targets[index].masks.shape[1:]
    return height, width


def _target(truth: Instances, image: Tensor) -> dict[str, Tensor]:
    """The truth as torchvision's detectors take it, scaled to a frame that arrives smaller than its label.

    Crowds are left out, and instances that vanish in it.
    """
    single = ~truth.crowd
    masks, boxes = torch.from_numpy(truth.masks[single]), torch.from_numpy(truth.boxes[single])
    labels = torch.from_numpy(truth.labels[single])
    height, width = image.shape[1:]
    if masks.shape[1:] != (height, width):
        scale = torch.tensor([width / masks.shape[2], height / masks.shape[1]] * 2)
        boxes = boxes * scale
        masks = F.interpolate(masks[:, None].float(), size=(height, width), mode="nearest-exact")[:, 0] > 0.5
        there = masks.flatten(1).any(dim=1)
        masks, boxes, labels = masks[there], boxes[there], labels[there]
    return {
        "masks": masks.to(image.device, torch.uint8),
        "boxes": boxes.to(image.device),
        "labels": labels.to(image.device),
    }
