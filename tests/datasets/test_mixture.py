from collections import Counter

import pytest
import torch
from torch import nn

from gearnn.datasets import Camera, DistortedDataset
from gearnn.datasets.mixture import Mixture
from gearnn.datasets.streets import Streets
from gearnn.errors import DataError
from gearnn.finetune import finetune
from gearnn.finetune_batches import Variants
from gearnn.levels import DistortionLevel
from gearnn.machine.compute import Compute
from gearnn.problems.segmentation import SemanticSegmentation
from gearnn.recipe import Recipe


def member(level: str, frames: int = 6) -> DistortedDataset:
    return DistortedDataset(Streets("train", frames, 0, Camera(size=(48, 32))), DistortionLevel.parse(level))


def drawn(mixture: Mixture, batches: int, batch_size: int = 6) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [[i // len(mixture) for i in mixture.draw(range(batch_size), generator)] for _ in range(batches)]


def test_every_level_is_drawn_alike_for_every_image() -> None:
    mixture = Mixture([member(f"jpeg:quality={q}") for q in (5, 20, 50)], mixed_sizes=False)
    counts = Counter(level for batch in drawn(mixture, 1000) for level in batch)
    assert isinstance(mixture, Variants)
    assert all(count == pytest.approx(2000, rel=0.07) for count in counts.values())
    assert any(len(set(batch)) > 1 for batch in drawn(mixture, 5))


def test_a_step_has_frames_of_one_size_and_levels_stay_uniform() -> None:
    levels = ["jpeg:quality=5", "jpeg:quality=20", "resolution:scale=0.5"]
    mixture = Mixture([member(level) for level in levels], mixed_sizes=False)
    batches = drawn(mixture, 1000)
    assert all(set(batch) in ({2}, {0}, {1}, {0, 1}) for batch in batches)
    counts = Counter(level for batch in batches for level in batch)
    assert all(count == pytest.approx(2000, rel=0.1) for count in counts.values())
    free = Mixture([member(level) for level in levels], mixed_sizes=True)
    assert any({0, 1, 2} <= set(batch) for batch in drawn(free, 20))


def test_a_drawn_index_gives_the_frame_at_that_level() -> None:
    members = [member("jpeg:quality=5"), member("resolution:scale=0.5")]
    mixture = Mixture(members, mixed_sizes=True)
    assert len(mixture) == 6
    sample = mixture[6 + 4]
    assert sample.name == members[1][4].name
    assert sample.image.size == (24, 16)


def test_mixed_training_sees_the_frames_order_and_flips_of_every_other_fine_tune(
    tiny: nn.Module, problem: SemanticSegmentation, fp32: Compute
) -> None:
    one = member("jpeg:quality=10")
    plain = finetune(tiny, one, problem, Recipe(epochs=2, batch_size=4, lr=0.01), compute=fp32)
    same = Mixture([one, one, one], mixed_sizes=False)
    mixed = finetune(tiny, same, problem, Recipe(epochs=2, batch_size=4, lr=0.01), compute=fp32)
    assert mixed.epoch_losses == plain.epoch_losses
    assert torch.equal(mixed.model.head.weight, plain.model.head.weight)  # type: ignore[arg-type, union-attr]


def test_levels_of_different_frames_are_refused() -> None:
    with pytest.raises(DataError, match=r"mixed training: expected the same frames .* got \[6, 5\] frames"):
        Mixture([member("jpeg:quality=5"), member("jpeg:quality=10", 5)], mixed_sizes=False)
    with pytest.raises(DataError, match=r"got \[\] frames"):
        Mixture([], mixed_sizes=True)
