"""Semantic segmentation: one class a pixel."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from gearnn.datasets.frames import Sample
from gearnn.errors import DataError, PlanError
from gearnn.machine.compute import Compute
from gearnn.metrics import SegmentationScore
from gearnn.problems.answer import Answer
from gearnn.problems.colours import overlay
from gearnn.problems.pixels import Channels, denormalised, normalised, renormalised

_AUXILIARY = 0.5
"""Weight of the loss of an auxiliary head, as in torchvision's training of its segmentation networks."""


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
    mean: Channels
    std: Channels
    stride: int = 8

    truth = "classes"
    takes_mixed_sizes = False
    loss_needs_training = False

    def __post_init__(self) -> None:
        if not isinstance(self.stride, int) or self.stride < 1:
            raise PlanError(f"semantic_segmentation: expected a stride of at least 1, but got {self.stride!r}")

    def describe(self) -> dict[str, Any]:
        return {"name": "semantic_segmentation", **asdict(self)}

    def flip(self, sample: Sample) -> Sample:
        mirrored = sample.image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        target = None if sample.target is None else sample.target[:, ::-1]
        return Sample(image=mirrored, target=target, name=sample.name)

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
        return self._padded(normalised(pixels, self.mean, self.std))

    def to(self, batch: Batch, compute: Compute) -> Batch:
        targets = None if batch.targets is None else batch.targets.to(compute.device, non_blocking=True)
        return Batch(images=compute.images(batch.images), targets=targets, size=batch.size)

    def teaches(self, batch: Batch) -> bool:
        """Whether any pixel has truth."""
        if batch.targets is None or self.ignore_index is None:
            return batch.targets is not None
        return bool((batch.targets != self.ignore_index).any())

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean cross-entropy over the pixels with truth; exactly 0 where no pixel has any."""
        assert batch.targets is not None, "training needs truth"
        output = model(batch.images)
        loss = self._cross_entropy(self._logits(output, batch), batch.targets)
        if isinstance(output, Mapping) and "aux" in output:
            loss = loss + _AUXILIARY * self._cross_entropy(self._logits(output, batch, "aux"), batch.targets)
        return loss

    def pixels(self, batch: Batch) -> list[Tensor]:
        height, width = batch.size
        return list(denormalised(batch.images[:, :, :height, :width], self.mean, self.std))

    def with_pixels(self, batch: Batch, pixels: Sequence[Tensor]) -> Batch:
        return Batch(
            images=self._padded(renormalised(pixels, self.mean, self.std)), targets=batch.targets, size=batch.size
        )

    def logits(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits [B, C, H, W] at the size of the labels, and which pixels have truth, bool [B, H, W]."""
        logits = self._logits(model(batch.images), batch)
        if batch.targets is None or self.ignore_index is None:
            return logits, torch.ones_like(logits[:, 0], dtype=torch.bool)
        return logits, batch.targets != self.ignore_index

    def predict(self, model: nn.Module, batch: Batch) -> list[Tensor]:
        """Classes of the pixels, int64 [H, W] a frame, at the size of its label, else of the frame."""
        return list(self._logits(model(batch.images), batch).argmax(dim=1).cpu())

    def labelled(self, batch: Batch, predictions: Sequence[Tensor]) -> Batch:
        """The batch with predicted classes as truth; see :mod:`gearnn.targets`."""
        targets = torch.stack(list(predictions)).to(batch.images.device)
        return Batch(images=batch.images, targets=targets, size=batch.size)

    def truths(self, batch: Batch) -> list[Tensor]:
        assert batch.targets is not None, "scoring needs truth"
        return list(batch.targets.cpu())

    def new_score(self) -> SegmentationScore:
        return SegmentationScore(self.num_classes, self.ignore_index)

    def answer(self, prediction: Tensor) -> Answer:
        classes, pixels = torch.unique(prediction, return_counts=True)
        shares = sorted(zip((pixels / prediction.numel()).tolist(), classes.tolist(), strict=True), reverse=True)
        text = ", ".join(f"class {label} {100 * share:.0f} %" for share, label in shares[:3])
        return Answer(text=text, mask=prediction.numpy().astype(np.uint8 if self.num_classes <= 256 else np.uint16))

    def draw(self, frame: np.ndarray, shown: Tensor) -> np.ndarray:
        return overlay(frame, shown.numpy(), black=self.ignore_index)

    def _padded(self, images: Tensor) -> Tensor:
        """Normalised frames [B, 3, H, W] with zeros below and to the right, up to multiples of the stride."""
        height, width = images.shape[2:]
        return F.pad(images, (0, -width % self.stride, 0, -height % self.stride))

    def _cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        ignore = -100 if self.ignore_index is None else self.ignore_index
        averaged = bool((targets != ignore).any())  # the mean over no pixels would be NaN, and their sum is 0
        return F.cross_entropy(logits.float(), targets, ignore_index=ignore, reduction="mean" if averaged else "sum")

    def _logits(self, output: Any, batch: Batch, head: str = "out") -> Tensor:
        """Logits at the size of the labels [B, C, H, W]: padding cropped off, smaller frames scaled up.

        Args:
            output: of the network: logits at the size of its input, or a dictionary of them by head,
                as torchvision's segmentation networks give.
            batch: the network's input.
            head: which of them.

        Raises:
            PlanError: the network gives something else.
        """
        logits = output.get(head) if isinstance(output, Mapping) else output
        padded = batch.images.shape[2:]
        if not isinstance(logits, Tensor) or logits.shape != (len(batch.images), self.num_classes, *padded):
            raise PlanError(
                f"semantic_segmentation: expected the network to give logits "
                f"{[len(batch.images), self.num_classes, *padded]} for frames {list(batch.images.shape)}, "
                f"or a dictionary with them as `out`, but got {_told(output)}"
            )
        height, width = batch.size
        size = batch.size if batch.targets is None else (batch.targets.shape[1], batch.targets.shape[2])
        logits = logits[:, :, :height, :width]
        if batch.size != size:
            logits = F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)
        return logits


def _told(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"{list(output.shape)}"
    if isinstance(output, Mapping):
        return f"a dictionary of {', '.join(f'{k} {_told(v)}' for k, v in output.items())}"
    return type(output).__name__
