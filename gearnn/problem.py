"""What differs between semantic segmentation, instance segmentation and classification.

The training loop, the evaluation and the gearbox know only :class:`Problem`; none of them asks which
one it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from gearnn.compute import Compute
from gearnn.datasets.frames import Sample
from gearnn.errors import DataError, PlanError
from gearnn.metrics import Interval, SegmentationScore


class Score(Protocol):
    """Collects predictions of a split and says how good they are."""

    primary_name: str

    def update(self, prediction: Any, truth: Any) -> None:
        """Count one frame."""
        ...

    @property
    def primary(self) -> float:
        """The figure by which solutions are compared; larger is better."""
        ...

    @property
    def per_class(self) -> list[float | None]:
        """The figure of every class; None where a class does not occur."""
        ...

    def interval(self, *, confidence: float = 0.95, num_draws: int = 1000, seed: int = 0) -> Interval:
        """Bootstrap interval of the primary figure over frames."""
        ...


class Problem(Protocol):
    """A task on frames."""

    def describe(self) -> dict[str, Any]:
        """The problem as JSON values, with its ``name``; :func:`restore_problem` is the inverse."""
        ...

    def flip(self, sample: Sample) -> Sample:
        """The sample mirrored left to right, truth included."""
        ...

    def collate(self, samples: Sequence[Sample]) -> Any:
        """Samples of one frame size as a batch on the CPU."""
        ...

    def to(self, batch: Any, compute: Compute) -> Any:
        """The batch on the device, in its memory order."""
        ...

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The loss that the base was trained with, a scalar to differentiate."""
        ...

    def predict(self, model: nn.Module, batch: Any) -> list[Any]:
        """One prediction a frame, on the CPU."""
        ...

    def truths(self, batch: Any) -> list[Any]:
        """The truth of every frame, as :meth:`Score.update` takes it."""
        ...

    def new_score(self) -> Score:
        """An empty score."""
        ...


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Frames of one size, ready for a network.

    Attributes:
        images: normalised frames, float32 [B, 3, H', W'], zero-padded below and to the right.
        targets: classes of the pixels, int64 [B, H, W]; None for frames without truth.
        size: (height, width) of the frames before padding.
    """

    images: Tensor
    targets: Tensor | None
    size: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class SemanticSegmentation:
    """One class a pixel; unweighted cross-entropy, as the base was trained with; mIoU.

    Attributes:
        num_classes: C.
        ignore_index: label of pixels without truth.
        mean: of the normalisation, per channel of RGB in [0, 1].
        std: of the normalisation.
        stride: frames are padded to multiples of it, and the logits cropped back.
    """

    num_classes: int
    ignore_index: int | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    stride: int = 8

    def describe(self) -> dict[str, Any]:
        return {"name": "semantic_segmentation", **asdict(self)}

    def flip(self, sample: Sample) -> Sample:
        mirrored = sample.image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return Sample(image=mirrored, target=sample.target[:, ::-1], name=sample.name)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """See :meth:`Problem.collate`.

        Raises:
            DataError: the frames differ in size.
        """
        sizes = {sample.image.size for sample in samples}
        if len(sizes) != 1:
            raise DataError(f"expected frames of one size in a batch, but got {sorted(sizes)}")
        pixels = np.stack([np.asarray(sample.image) for sample in samples])
        width, height = sizes.pop()
        targets = None
        if all(sample.target is not None for sample in samples):
            targets = torch.from_numpy(np.stack([sample.target for sample in samples]).astype(np.int64))
        return Batch(images=self.normalise(pixels), targets=targets, size=(height, width))

    def normalise(self, pixels: np.ndarray) -> Tensor:
        """Frames as the network takes them.

        Args:
            pixels: uint8 [B, H, W, 3], RGB.

        Returns:
            float32 [B, 3, H', W'] with H', W' the next multiples of ``stride``; padding is zero
            after normalisation, that is the mean colour.
        """
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255.0)
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        height, width = pixels.shape[1:3]
        return F.pad((images - mean) / std, (0, -width % self.stride, 0, -height % self.stride))

    def to(self, batch: Batch, compute: Compute) -> Batch:
        targets = None if batch.targets is None else batch.targets.to(compute.device, non_blocking=True)
        return Batch(images=compute.images(batch.images), targets=targets, size=batch.size)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        assert batch.targets is not None, "training needs truth"
        logits = self._logits(model, batch)
        ignore = -100 if self.ignore_index is None else self.ignore_index
        return F.cross_entropy(logits.float(), batch.targets, ignore_index=ignore)

    def predict(self, model: nn.Module, batch: Batch) -> list[Tensor]:
        """Classes of the pixels, int64 [H, W] a frame, at the size of its label, else of the frame."""
        return list(self._logits(model, batch).argmax(dim=1).cpu())

    def truths(self, batch: Batch) -> list[Tensor]:
        assert batch.targets is not None, "scoring needs truth"
        return list(batch.targets.cpu())

    def new_score(self) -> SegmentationScore:
        return SegmentationScore(self.num_classes, self.ignore_index)

    def _logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Logits at the size of the labels [B, C, H, W]: padding cropped off, smaller frames scaled up."""
        height, width = batch.size
        size = batch.size if batch.targets is None else (batch.targets.shape[1], batch.targets.shape[2])
        logits: Tensor = model(batch.images)[:, :, :height, :width]
        if batch.size != size:
            logits = F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)
        return logits


def restore_problem(description: Mapping[str, Any]) -> Problem:
    """The problem that :meth:`Problem.describe` described.

    Raises:
        PlanError: no problem of that name.
    """
    facts = dict(description)
    name = facts.pop("name", None)
    if name != "semantic_segmentation":
        raise PlanError(f"unknown problem {name!r}; expected semantic_segmentation")
    return SemanticSegmentation(**facts | {key: tuple(facts[key]) for key in ("mean", "std")})
