import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gearnn.datasets import DistortedDataset
from gearnn.errors import PlanError
from gearnn.finetune import finetune
from gearnn.machine.compute import Compute
from gearnn.objectives import check_classifies, distilled_loss, stability_loss
from gearnn.problems.classification import Classification
from gearnn.problems.instances import InstanceSegmentation
from gearnn.problems.segmentation import SemanticSegmentation
from gearnn.recipe import Recipe


@pytest.fixture
def void() -> SemanticSegmentation:
    """A problem with pixels without truth, on frames that do not divide by the stride."""
    return SemanticSegmentation(num_classes=9, ignore_index=2, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), stride=5)


def batch_of(samples: DistortedDataset, problem: SemanticSegmentation) -> object:
    return problem.collate([samples[0], samples[1]])


def test_stability_training_follows_its_paper_pixel_by_pixel(
    tiny: nn.Module, samples: DistortedDataset, void: SemanticSegmentation
) -> None:
    batch = batch_of(samples, void)
    torch.manual_seed(3)
    loss = stability_loss(void, alpha=2.0, sigma=0.1)(tiny, batch)
    torch.manual_seed(3)
    height, width = batch.size  # type: ignore[attr-defined]
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (void.mean, void.std))
    noise = torch.stack([torch.randn(3, height, width) for _ in range(2)])
    pixels = batch.images[:, :, :height, :width] * std + mean  # type: ignore[attr-defined]
    shaken = F.pad((pixels + 0.1 * noise - mean) / std, (0, 2, 0, 3))
    clean, noisy = (tiny(x)[:, :, :height, :width].detach() for x in (batch.images, shaken))  # type: ignore[attr-defined]
    own, stable, counted = 0.0, 0.0, 0
    for b in range(2):
        for y in range(height):
            for x in range(width):
                label = int(batch.targets[b, y, x])  # type: ignore[attr-defined]
                if label == 2:
                    continue
                p, log_q = clean[b, :, y, x].softmax(0), noisy[b, :, y, x].log_softmax(0)
                own -= float(clean[b, :, y, x].log_softmax(0)[label])
                stable -= float((p * log_q).sum())
                counted += 1
    assert 0 < counted < 2 * height * width
    assert float(loss.detach()) == pytest.approx((own + 2.0 * stable) / counted, rel=1e-4)


def test_gradients_of_stability_run_through_both_predictions(
    tiny: nn.Module, samples: DistortedDataset, problem: SemanticSegmentation
) -> None:
    """With alpha alone, d/dw of the cross-entropy differs from that with a target that is held fixed."""
    batch = batch_of(samples, problem)

    def gradient(*, fixed: bool) -> torch.Tensor:
        torch.manual_seed(0)
        if not fixed:
            loss = stability_loss(problem, alpha=1.0, sigma=0.2)(tiny, batch) - problem.loss(tiny, batch)
        else:
            noisy = problem.with_pixels(batch, [p + 0.2 * torch.randn_like(p) for p in problem.pixels(batch)])
            loss = F.cross_entropy(tiny(noisy.images), tiny(batch.images).softmax(1).detach())  # type: ignore[attr-defined]
        return torch.autograd.grad(loss, tiny.head.weight)[0]  # type: ignore[arg-type]

    through, held = gradient(fixed=False), gradient(fixed=True)
    assert not torch.allclose(through, held, rtol=0.05, atol=0)


def test_a_share_of_one_follows_the_teacher_alone_and_of_zero_the_truth(
    tiny: nn.Module, samples: DistortedDataset, problem: SemanticSegmentation, fp32: Compute
) -> None:
    batch, teacher = batch_of(samples, problem), copy.deepcopy(tiny)
    with torch.no_grad():
        teacher.head.weight.mul_(3.0)  # type: ignore[union-attr]
    truth = problem.loss(tiny, batch).detach()
    wanted = F.cross_entropy(tiny(batch.images), teacher(batch.images).softmax(1)).detach()  # type: ignore[attr-defined]
    found = {
        share: float(distilled_loss(problem, teacher, share=share, compute=fp32)(tiny, batch).detach())
        for share in (0.0, 0.3, 1.0)
    }
    assert found[0.0] == pytest.approx(float(truth))
    assert found[1.0] == pytest.approx(float(wanted), rel=1e-5)
    assert found[0.3] == pytest.approx(0.7 * float(truth) + 0.3 * float(wanted), rel=1e-5)
    assert teacher.head.weight.grad is None  # type: ignore[union-attr]


def test_an_adaptor_comes_closer_to_its_teacher(
    tiny: nn.Module, samples: DistortedDataset, problem: SemanticSegmentation, fp32: Compute
) -> None:
    teacher = finetune(tiny, samples, problem, Recipe(epochs=3, lr=0.05), compute=fp32).model
    loss = distilled_loss(problem, teacher, share=1.0, compute=fp32)
    downhill = Recipe(epochs=3, batch_size=len(samples), lr=0.05, momentum=0.0, flip=0.0)  # all frames in every step
    student = finetune(tiny, samples, problem, downhill, loss=loss, compute=fp32).model
    batch = problem.collate([samples[i] for i in range(len(samples))])
    far, near = (float(loss(model, batch).detach()) for model in (tiny, student))
    assert near < far


def test_pixels_survive_the_way_there_and_back(samples: DistortedDataset, void: SemanticSegmentation) -> None:
    batch = batch_of(samples, void)
    again = void.with_pixels(batch, void.pixels(batch))  # type: ignore[arg-type]
    torch.testing.assert_close(again.images, batch.images)  # type: ignore[attr-defined]
    assert again.images.shape == batch.images.shape  # type: ignore[attr-defined]
    assert void.pixels(batch)[0].shape == (3, 32, 48)  # type: ignore[arg-type]


def test_only_problems_that_classify_can_be_compared_with_themselves() -> None:
    with pytest.raises(PlanError, match=r"stability training: expected a problem that classifies .* instance_segment"):
        stability_loss(InstanceSegmentation(num_classes=2), alpha=1.0, sigma=0.1)
    check_classifies(Classification(num_classes=3, mean=(0, 0, 0), std=(1, 1, 1)), "anything")
