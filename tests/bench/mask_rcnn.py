"""The cost of Mask R-CNN against torchvision alone, for `make bench`; also what a whole evaluation keeps in memory.

    python -m tests.bench.mask_rcnn memory

evaluates all 170 images of Penn-Fudan and prints the peak of this process's memory in GB.
"""

import resource
import sys
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from gearnn.datasets import Camera, Sample, open_split, with_truth
from gearnn.datasets.streets import Streets
from gearnn.evaluate import evaluate
from gearnn.finetune import _step
from gearnn.finetune_job import Job
from gearnn.machine.compute import Compute
from gearnn.machine.randomness import own_stream
from gearnn.models import build_model
from gearnn.problems.instances import Frames, InstanceSegmentation
from gearnn.recipe import Recipe, make_optimizer
from tests.conftest import SHARED

_PROBLEM = InstanceSegmentation(num_classes=9)
_SIZES = {"min_size": 320, "max_size": 640}


def steps() -> list[Callable[[], None]]:
    """A training step of ours, and one of torchvision's own network in a bare loop, with the same random numbers."""
    compute, model, theirs = Compute.resolve(), *_networks()
    batch = _PROBLEM.to(_PROBLEM.collate(_samples(2)), compute)
    recipe = Recipe(lr=1e-9)
    learnable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = make_optimizer(list(learnable.values()), recipe)
    job = Job(model, optimizer, learnable, frozenset(), recipe=recipe, compute=compute, checkpoint=None, facts={})
    bare_optimizer = _optimizer(theirs)
    targets = _targets(batch)
    model.train(), theirs.train()

    def ours() -> None:
        with compute.training(model), own_stream(compute.device, 0):
            _step(job, _PROBLEM, _PROBLEM.loss, batch, 1e-9, compute)

    def bare() -> None:
        torch.manual_seed(0)
        bare_optimizer.zero_grad(set_to_none=True)
        with compute.autocast():
            loss = sum(theirs(batch.images, targets).values())
        loss.backward()
        bare_optimizer.step()
        loss.item()

    return [bare, ours]


def evaluations() -> list[Callable[[], None]]:
    """An evaluation of ours, scores included, and torchvision's own network on the same frames."""
    compute, model, theirs = Compute.resolve(), *_networks()
    samples = _samples(4)
    images = [image for batch in [_PROBLEM.collate(samples)] for image in batch.images]
    model.eval(), theirs.eval()

    def ours() -> None:
        _ = evaluate(model, samples, _PROBLEM, batch_size=2, compute=compute).primary  # type: ignore[arg-type]

    @torch.inference_mode()
    def bare() -> None:
        for start in (0, 2):
            with compute.autocast():
                theirs(images[start : start + 2])

    return [bare, ours]


def _networks() -> tuple[nn.Module, nn.Module]:
    """Ours and torchvision's with the same weights, in the same memory order."""
    compute = Compute.resolve()
    torch.manual_seed(0)
    model = build_model("mask_rcnn", 9, _SIZES)
    theirs: nn.Module = torchvision.models.detection.maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=9, norm_layer=torchvision.ops.FrozenBatchNorm2d,
        trainable_backbone_layers=5, **_SIZES,
    )  # fmt: skip
    theirs.load_state_dict(model.state_dict())
    return compute.place(model), compute.place(theirs)


def _samples(number: int) -> list[Sample]:
    frames = with_truth(Streets("train", number, 0, Camera(size=(400, 320))), "instances")
    return [Sample(image=frames.frame(i), target=frames.target(i), name=frames.name(i)) for i in range(number)]


def _targets(batch: Frames) -> list[dict[str, Tensor]]:
    assert batch.targets is not None
    return [
        {
            "boxes": torch.from_numpy(truth.boxes),
            "labels": torch.from_numpy(truth.labels),
            "masks": torch.from_numpy(truth.masks).to(torch.uint8),
        }
        for truth in batch.targets
    ]


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=1e-9, momentum=0.9)


class _WholeDataset:
    """All images of Penn-Fudan with their instances, read when asked for."""

    def __init__(self) -> None:
        root = SHARED / "data" / "PennFudanPed"
        splits = [with_truth(open_split("pennfudan", root, s, Camera()), "instances") for s in ("train", "val", "test")]
        self.frames = list(chain.from_iterable(((split, i) for i in range(len(split))) for split in splits))

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Sample:
        split, i = self.frames[index]
        return Sample(image=split.frame(i), target=split.target(i), name=split.name(i))


def peak_memory_gb() -> float:
    """Memory of this process after evaluating all of Penn-Fudan, with 100 objects found in every frame."""
    torch.manual_seed(0)
    model = build_model("mask_rcnn", 2, _SIZES | {"box_score_thresh": 0.0})
    dataset: Any = _WholeDataset()
    evaluate(model, dataset, InstanceSegmentation(num_classes=2), batch_size=2)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


if __name__ == "__main__":
    if sys.argv[1:] != ["memory"]:
        sys.exit("usage: python -m tests.bench.mask_rcnn memory")
    sys.stdout.write(f"{peak_memory_gb():.3f}\n")
