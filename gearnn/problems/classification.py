"""Image classification: one class a frame."""

from collections.abc import Sequence
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
from gearnn.metrics import ClassificationScore
from gearnn.problems.answer import Answer
from gearnn.problems.pixels import Channels, denormalised, normalised, renormalised


@dataclass(frozen=True, kw_only=True)
class LabelledFrames:
    """Frames of one size, ready for a network.

    Attributes:
        images: normalised frames, float32 [B, 3, H, W].
        targets: their classes, int64 [B]; None for frames without truth.
    """

    images: Tensor
    targets: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Classification:
    """One class a frame; unweighted cross-entropy; top-1 accuracy.

    Attributes:
        num_classes: C.
        mean: of the normalisation, per channel of RGB in [0, 1].
        std: of the normalisation.
        size: (width, height) to which distorted frames are scaled for the network, as training
            pipelines do; None leaves them as they are.
    """

    num_classes: int
    mean: Channels
    std: Channels
    size: tuple[int, int] | None = None

    truth = "class"
    loss_needs_training = False

    def __post_init__(self) -> None:
        if self.size is not None:
            if len(self.size) != 2 or not all(isinstance(side, int) and side > 0 for side in self.size):
                raise PlanError(f"classification: expected a size [width, height], but got {list(self.size)}")
            object.__setattr__(self, "size", tuple(self.size))  # YAML and JSON give lists

    @property
    def takes_mixed_sizes(self) -> bool:
        """Frames of all sizes are scaled to one, where there is one."""
        return self.size is not None

    def describe(self) -> dict[str, Any]:
        return {"name": "classification", **asdict(self)}

    def flip(self, sample: Sample) -> Sample:
        mirrored = sample.image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return Sample(image=mirrored, target=sample.target, name=sample.name)

    def collate(self, samples: Sequence[Sample]) -> LabelledFrames:
        """See :meth:`gearnn.problems.problem.Problem.collate`.

        Raises:
            DataError: the frames differ in size, and there is no ``size``.
        """
        images = [sample.image for sample in samples]
        if self.size is not None:
            images = [image.resize(self.size, Image.Resampling.BILINEAR) for image in images]
        sizes = {image.size for image in images}
        if len(sizes) != 1:
            raise DataError(f"expected frames of one size in a batch, but got {sorted(sizes)}")
        targets = None
        if all(sample.target is not None for sample in samples):
            targets = torch.tensor([int(sample.target) for sample in samples])
        pixels = np.stack([np.asarray(image) for image in images])
        return LabelledFrames(images=normalised(pixels, self.mean, self.std), targets=targets)

    def to(self, batch: LabelledFrames, compute: Compute) -> LabelledFrames:
        targets = None if batch.targets is None else batch.targets.to(compute.device, non_blocking=True)
        return LabelledFrames(images=compute.images(batch.images), targets=targets)

    def loss(self, model: nn.Module, batch: LabelledFrames) -> Tensor:
        assert batch.targets is not None, "training needs truth"
        return F.cross_entropy(self._logits(model, batch).float(), batch.targets)

    def pixels(self, batch: LabelledFrames) -> list[Tensor]:
        return list(denormalised(batch.images, self.mean, self.std))

    def with_pixels(self, batch: LabelledFrames, pixels: Sequence[Tensor]) -> LabelledFrames:
        return LabelledFrames(images=renormalised(pixels, self.mean, self.std), targets=batch.targets)

    def logits(self, model: nn.Module, batch: LabelledFrames) -> tuple[Tensor, Tensor]:
        """Logits [B, C], and that every frame counts, bool [B]."""
        logits = self._logits(model, batch)
        return logits, torch.ones(len(logits), dtype=torch.bool, device=logits.device)

    def predict(self, model: nn.Module, batch: LabelledFrames) -> list[Tensor]:
        """Probabilities of the classes, float32 [C] a frame."""
        return list(self._logits(model, batch).float().softmax(dim=1).cpu())

    def labelled(self, batch: LabelledFrames, predictions: Sequence[Tensor]) -> LabelledFrames:
        """The batch with the most likely classes as truth; see :mod:`gearnn.targets`."""
        targets = torch.stack([prediction.argmax() for prediction in predictions]).to(batch.images.device)
        return LabelledFrames(images=batch.images, targets=targets)

    def truths(self, batch: LabelledFrames) -> list[int]:
        assert batch.targets is not None, "scoring needs truth"
        return [int(target) for target in batch.targets]

    def new_score(self) -> ClassificationScore:
        return ClassificationScore(self.num_classes)

    def answer(self, prediction: Tensor) -> Answer:
        label = int(prediction.argmax())
        text = f"class {label}, {100 * float(prediction[label]):.0f} %"
        return Answer(text=text, facts={"class": label, "probabilities": prediction.tolist()})

    def _logits(self, model: nn.Module, batch: LabelledFrames) -> Tensor:
        output = model(batch.images)
        logits = getattr(output, "logits", output)  # GoogLeNet and Inception name them in training
        if not isinstance(logits, Tensor) or logits.shape != (len(batch.images), self.num_classes):
            came = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise PlanError(
                f"classification: expected the network to give logits {[len(batch.images), self.num_classes]} "
                f"for frames {list(batch.images.shape)}, but got {came}"
            )
        return logits
