import threading
from collections import namedtuple
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gearnn.errors import GearError
from gearnn.gearbox import GearBox
from gearnn.gears.holding import Hold
from gearnn.gears.mixed import joined
from gearnn.layers import layers_of
from gearnn.models import load_model
from tests.shared.adaptors import HOLDS, LEVELS, adapted

BATCH = (LEVELS[1], "pristine", LEVELS[0], LEVELS[1], LEVELS[2], LEVELS[0], "pristine", LEVELS[2])


def one_by_one(box: GearBox, x: Tensor, levels: Sequence[str]) -> Tensor:
    with torch.inference_mode():
        return torch.cat([box(x[i : i + 1], level) for i, level in enumerate(levels)])


def mixed(box: GearBox, x: Any, levels: Sequence[str]) -> Any:
    with torch.inference_mode():
        return box.mixed(levels)(x)


@pytest.mark.parametrize("hold", HOLDS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_each_frame_gets_what_its_own_network_gives(
    drn: nn.Module, memory_format: torch.memory_format, hold: Hold
) -> None:
    box = GearBox(drn, adapted(drn, [layer.name for layer in layers_of(drn) if layer.num_values < 2000]), hold=hold)
    x = torch.randn(8, 3, 32, 48).to(memory_format=memory_format)
    expected = one_by_one(box, x, BATCH)
    assert (mixed(box, x, BATCH) - expected).abs().max() < 1e-6 * expected.abs().max()
    assert (expected[0] - one_by_one(box, x[:1], BATCH[2:3])[0]).abs().max() > 1e-3  # levels do differ


@pytest.mark.parametrize("hold", HOLDS)
def test_under_autocast_and_without_inference_mode_each_frame_has_its_own_level(drn: nn.Module, hold: Hold) -> None:
    """Autocast keeps the casts of weights, and gears in place would run the next level with them."""
    box = GearBox(drn, adapted(drn, ["base.0.0", "seg"]), hold=hold)
    x = torch.randn(8, 3, 16, 16)
    for gradients in (torch.no_grad, torch.enable_grad):
        with torch.autocast("cpu", dtype=torch.bfloat16), gradients():
            found = box.mixed(BATCH)(x)
            for index, level in enumerate(BATCH):
                alone = GearBox(drn, adapted(drn, ["base.0.0", "seg"]))(x[index : index + 1], level)
                assert torch.equal(found[index : index + 1], alone), level


class Sorting(nn.Module):
    """A network that sorts its frames inside, as packed sequences are, and gives classes."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        order = x.sum(1).argsort()
        return self.head(self.body(x[order]).relu())[order.argsort()].argmax(1)


@pytest.mark.parametrize("hold", HOLDS)
def test_a_network_that_sorts_frames_inside_and_gives_classes_answers_in_order(hold: Hold) -> None:
    torch.manual_seed(0)
    base = Sorting().eval()
    box = GearBox(base, adapted(base, ["body"]), hold=hold)
    assert mixed(box, torch.zeros(8, 6), BATCH).tolist() == one_by_one(box, torch.zeros(8, 6), BATCH).tolist()
    for seed in range(20):
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(mixed(box, x, BATCH), one_by_one(box, x, BATCH))


class Rearranging(nn.Module):
    """A network whose adapted layer sees pixels as rows."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        rows = x.permute(2, 3, 0, 1).reshape(-1, channels)
        return self.head(rows).reshape(height, width, batch, 4).permute(2, 3, 0, 1)


class Functional(nn.Module):
    """A network that uses a layer's weight without calling the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.head.weight, self.head.bias)


@pytest.mark.parametrize("hold", HOLDS)
@pytest.mark.parametrize("network", [Rearranging, Functional])
def test_networks_that_treat_layers_otherwise_run_too(network: type[nn.Module], hold: Hold) -> None:
    torch.manual_seed(0)
    base = network().eval()
    box, x = GearBox(base, adapted(base, ["head"]), hold=hold), torch.randn(8, 3, 4, 4)
    torch.testing.assert_close(mixed(box, x, BATCH), one_by_one(box, x, BATCH))


def test_dictionaries_keep_their_entries() -> None:
    torch.manual_seed(0)
    base = load_model("lraspp_mobilenet_v3_large", 5).eval()
    box = GearBox(base, adapted(base, [layer.name for layer in layers_of(base) if layer.num_values < 300]))
    x = torch.randn(8, 3, 64, 64)
    with torch.inference_mode():
        expected = torch.cat([box(x[i : i + 1], level)["out"] for i, level in enumerate(BATCH)])
    found = mixed(box, x, BATCH)["out"]
    assert (F.log_softmax(found, 1) - F.log_softmax(expected, 1)).abs().max() < 1e-5


def test_named_tuples_lists_and_empty_entries_keep_their_kind() -> None:
    pair = namedtuple("pair", "logits nothing answers")
    parts = [pair(torch.tensor([[2.0], [0.0]]), None, ["two", "nought"]), pair(torch.tensor([[1.0]]), None, ["one"])]
    found = joined(parts, [[2, 0], [1]])
    assert isinstance(found, pair)
    assert found.logits.tolist() == [[0.0], [1.0], [2.0]]
    assert (found.nothing, found.answers) == (None, ["nought", "one", "two"])


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([torch.tensor(1.0), torch.tensor(2.0)], "expected a network that gives one row a frame"),
        ([torch.zeros(3, 2), torch.zeros(3, 2)], "expected a network that gives one row a frame"),
        ([["one"], []], "expected a network that gives one row a frame"),
        ([1.5, 2.5], "expected tensors or one answer a frame from the network, but got float"),
    ],
)
def test_outputs_that_are_not_one_a_frame_are_refused(outputs: list[Any], message: str) -> None:
    with pytest.raises(GearError, match=message):
        joined(outputs, [[0], [1]])


class TimeFirst(nn.Module):
    """A network whose first output dimension is not the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x).expand(2, -1, -1)


class BatchStatistics(nn.Module):
    """A network that normalises by the statistics of the batch, in evaluation too."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(6, track_running_stats=False), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(torch.cat([x, x + 1.0]))[: len(x)])


class Causal(nn.Module):
    """A network whose classes of a frame depend on the frame before it."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 40)

    def forward(self, x: Tensor) -> Tensor:
        return (self.head(x) + 3.0 * self.head(x).roll(1, 0)).view(-1, 10, 4).argmax(2)


@pytest.mark.parametrize("hold", HOLDS)
@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Causal, "output for a frame depends on the frames beside it"),
        (TimeFirst, r"does not give one row a frame, but \[2, 2, 3\] for 2 frames"),
        (BatchStatistics, "output for a frame depends on the frames beside it"),
    ],
)
def test_networks_whose_batches_cannot_be_taken_apart_are_refused(
    network: type[nn.Module], reason: str, hold: Hold
) -> None:
    torch.manual_seed(0)
    base = network().eval()
    box = GearBox(base, adapted(base, ["head"]), hold=hold)
    assert (box.batch_size, box.most_frames) == (8, 1)
    with pytest.raises(GearError, match=f"mixed batches: the network.*{reason}; run each level's frames by themselves"):
        box.mixed(BATCH)
    for frames in (1, 2):  # one level's batch runs as it always did
        x = torch.randn(frames, 6)
        assert torch.equal(mixed(box, x, LEVELS[:1] * frames), box(x, LEVELS[0]))


class Static(nn.Module):
    """A network that writes its output where the last one was, as captured programs do."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)
        self.places: dict[int, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        place = self.places.setdefault(len(x), torch.zeros(len(x), 3))
        return place.copy_(self.head(x))


@pytest.mark.parametrize("hold", HOLDS)
def test_a_network_that_writes_its_outputs_into_one_place_is_copied_in_time(hold: Hold) -> None:
    torch.manual_seed(0)
    base = Static().eval()
    box, x = GearBox(base, adapted(base, ["head"]), hold=hold), torch.randn(8, 6)
    with torch.inference_mode():
        expected = torch.cat([box(x[i : i + 1], level).clone() for i, level in enumerate(BATCH)])
    torch.testing.assert_close(mixed(box, x, BATCH), expected)


def test_a_detector_takes_lists_and_gives_answers_in_order() -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv2d(3, 1, 1)

        def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
            return [{"score": self.head(image[None]).mean()} for image in images]

    torch.manual_seed(0)
    base = Detector().eval()
    for hold in HOLDS:
        box = GearBox(base, adapted(base, ["head"]), hold=hold)
        images = [torch.randn(3, 4 + i, 4) for i in range(8)]
        found = mixed(box, images, BATCH)
        assert [a["score"] for a in mixed(box, tuple(images), BATCH)] == [a["score"] for a in found]
        with torch.inference_mode():
            for image, level, answer in zip(images, BATCH, found, strict=True):
                with box.at(level) as network:
                    assert torch.equal(answer["score"], network([image])[0]["score"])


@pytest.mark.parametrize("hold", HOLDS)
def test_threads_run_mixed_batches_at_once(drn: nn.Module, hold: Hold) -> None:
    box = GearBox(drn, adapted(drn, ["base.0.1", "base.1.1", "seg"]), hold=hold)
    x = torch.randn(8, 3, 16, 16)
    orders = [BATCH[i:] + BATCH[:i] for i in range(4)]
    expected = [one_by_one(box, x, order) for order in orders]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(10):
            output = mixed(box, x, orders[number])
            wrong.extend([number] if (output - expected[number]).abs().max() > 1e-4 else [])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_nothing_is_copied_from_the_host_so_that_a_batch_can_be_captured(drn: nn.Module) -> None:
    """Every operator around the networks' own takes rows by slices; index tensors would synchronise a GPU."""
    box = GearBox(drn, adapted(drn, ["base.0.1"]))
    x = torch.randn(8, 3, 16, 16)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        mixed(box, x, BATCH)
    operators = {event.key for event in profile.key_averages()}
    assert "aten::cat" in operators
    assert operators.isdisjoint({"aten::index", "aten::index_select", "aten::tensor", "aten::_local_scalar_dense"})


def test_a_batch_of_another_length_is_refused(drn: nn.Module) -> None:
    box = GearBox(drn, adapted(drn, ["base.0.1"]))
    with pytest.raises(ValueError, match="expected a batch of 8 frames, as many as levels, but got 3"):
        box.mixed(BATCH)(torch.zeros(3, 3, 16, 16))


def test_a_module_in_two_places_is_adapted_in_both() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 3, 1)
            self.again = self.a
            self.c = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.again(self.a(x)))

    torch.manual_seed(0)
    base = Twice().eval()
    adaptors = [*adapted(base, ["c"], LEVELS[:2]), *adapted(base, ["a"], LEVELS[2:])]
    box, x = GearBox(base, adaptors), torch.randn(4, 3, 4, 4)
    for levels in ((LEVELS[0], LEVELS[1]) * 2, (LEVELS[0], LEVELS[2]) * 2):
        torch.testing.assert_close(mixed(box, x, levels), one_by_one(box, x, levels))
