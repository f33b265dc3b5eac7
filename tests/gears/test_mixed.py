import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gearnn.adaptor import Adaptor
from gearnn.datasets import Camera, open_split
from gearnn.gearbox import GearBox
from gearnn.gears import Views
from gearnn.layers import layers_of
from gearnn.models import load_model
from tests.test_gearbox import make_adaptor

LEVELS = ("jpeg:quality=10", "jpeg:quality=30", "jpeg:quality=50")
BATCH = (LEVELS[1], "pristine", LEVELS[0], LEVELS[1], LEVELS[2], LEVELS[0], "pristine", LEVELS[2])


def adapted(base: nn.Module, names: Sequence[str], levels: Sequence[str] = LEVELS) -> list[Adaptor]:
    """Adaptors whose weights differ from level to level."""
    found = []
    for number, level in enumerate(levels):
        adaptor, state = make_adaptor(base, level, list(names)), base.state_dict()
        tensors = {name: state[name] * (1.02 + 0.02 * number) + 0.001 for name in adaptor.tensors}
        found.append(Adaptor(**{**vars(adaptor), "tensors": tensors}))
    return found


def one_by_one(box: GearBox, x: Tensor, levels: Sequence[str]) -> Tensor:
    with torch.inference_mode():
        return torch.cat([box(x[i : i + 1], level) for i, level in enumerate(levels)])


def one_forward(box: GearBox, x: Tensor, levels: Sequence[str]) -> Tensor:
    assert isinstance(box.gears, Views)
    with torch.inference_mode():
        output: Tensor = box.gears._mixed.one_forward(x, [box._gear(level) for level in levels])
        return output


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_one_forward_pass_gives_each_frame_what_its_own_network_gives(
    drn: nn.Module, memory_format: torch.memory_format
) -> None:
    names = [layer.name for layer in layers_of(drn) if layer.num_values < 2000]
    kinds = {type(drn.get_submodule(name)) for name in names}
    assert kinds == {nn.BatchNorm2d, nn.Conv2d}
    box = GearBox(drn, adapted(drn, names))
    x = torch.randn(8, 3, 32, 48).to(memory_format=memory_format)
    expected = one_by_one(box, x, BATCH)
    found = one_forward(box, x, BATCH)
    assert (found - expected).abs().max() < 1e-6 * expected.abs().max()  # an untrained network's logits are large
    assert (expected[0] - one_by_one(box, x[:1], BATCH[2:3])[0]).abs().max() > 1e-3  # levels do differ


@pytest.mark.data
def test_log_probabilities_of_real_frames_are_those_of_each_level(shared: Path) -> None:
    base = load_model("drn_d_22", 11, checkpoint=shared / "models" / "drn_d_22_camvid.safetensors").eval()
    names = [layer.name for layer in layers_of(base) if layer.num_values < 2500]
    box = GearBox(base, adapted(base, names))
    frames = open_split("camvid", shared / "data" / "camvid", "val", Camera(size=(240, 180)))
    images = (np.stack([np.asarray(frames.frame(i)) for i in range(8)]) / 255.0 - 0.45) / 0.25
    x = F.pad(torch.from_numpy(images).permute(0, 3, 1, 2).float(), (0, 0, 0, 4))
    for batch in (x, x.contiguous(memory_format=torch.channels_last)):
        found, expected = one_forward(box, batch, BATCH), one_by_one(box, batch, BATCH)
        assert (F.log_softmax(found, 1) - F.log_softmax(expected, 1)).abs().max() < 1e-5


def test_networks_of_other_makers_agree_as_well() -> None:
    torch.manual_seed(0)
    base = load_model("lraspp_mobilenet_v3_large", 5).eval()
    names = [layer.name for layer in layers_of(base) if layer.num_values < 300]
    box = GearBox(base, adapted(base, names))
    x = torch.randn(8, 3, 64, 64)
    with torch.inference_mode():
        found = box.mixed(BATCH)(x)["out"]
        expected = torch.cat([box(x[i : i + 1], level)["out"] for i, level in enumerate(BATCH)])
        again = box.gears._mixed.one_forward(x, [box._gear(level) for level in BATCH])["out"]  # type: ignore[attr-defined]
    for output in (found, again):
        assert (F.log_softmax(output, 1) - F.log_softmax(expected, 1)).abs().max() < 1e-5


class Everything(nn.Module):
    """Layers of many kinds, a bare parameter and a submodule that owns another."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.group = nn.GroupNorm(2, 8)
        self.instance = nn.InstanceNorm2d(8, affine=True)
        self.prelu = nn.PReLU(8)
        self.block = Scaled()
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.prelu(self.instance(self.group(self.up(self.conv(x)))))
        x = self.block(x).mean(dim=(2, 3))
        return self.head(self.norm(x))


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, 8, 1, 1))
        self.inner = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.inner(x)


def test_every_kind_of_layer_can_be_adapted_in_a_mixed_batch() -> None:
    torch.manual_seed(0)
    base = Everything().eval()
    box = GearBox(base, adapted(base, [layer.name for layer in layers_of(base)]))
    x = torch.randn(8, 3, 8, 8)
    torch.testing.assert_close(one_forward(box, x, BATCH), one_by_one(box, x, BATCH), rtol=0, atol=1e-5)


class Rearranging(nn.Module):
    """A network whose adapted layer sees pixels as rows; in a batch of one pixel it would not be noticed."""

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


class Swapping(nn.Module):
    """A network that mixes up its rows before the adapted layer, and back after it: as many rows, but others."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flip(0)).flip(0)


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Rearranging, "one row a frame"),
        (Functional, "has no attribute 'weight'"),
        (Swapping, "one forward pass differs from the levels' own networks"),
    ],
)
def test_networks_that_cannot_are_run_in_sub_batches_and_in_order(network: type[nn.Module], reason: str) -> None:
    torch.manual_seed(0)
    base = network().eval()
    box = GearBox(base, adapted(base, ["head"]))
    x = torch.randn(8, 3, 4, 4)
    with torch.inference_mode():
        for _ in range(3):
            torch.testing.assert_close(box.mixed(BATCH)(x), one_by_one(box, x, BATCH))
    assert isinstance(box.gears, Views)
    assert reason in box.gears._mixed.refused


def test_the_faster_way_is_chosen_by_running_both(drn: nn.Module) -> None:
    box = GearBox(drn, adapted(drn, ["base.0.1"]))
    x = torch.randn(8, 3, 16, 16)
    assert isinstance(box.gears, Views)
    runner = box.gears._mixed
    with torch.inference_mode():
        for _ in range(8):
            torch.testing.assert_close(box.mixed(BATCH)(x), one_by_one(box, x, BATCH), rtol=0, atol=1e-4)
    (choice,) = runner._choices.values()
    assert runner.refused == ""
    faster = int(min(choice.seconds[1]) < min(choice.seconds[0]))
    assert (choice.chosen, [len(times) for times in choice.seconds]) == (faster, [3, 3])


def test_a_detector_takes_lists_and_gives_answers_in_order(tiny: nn.Module) -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv2d(3, 1, 1)

        def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
            return [{"score": self.head(image[None]).mean()} for image in images]

    torch.manual_seed(0)
    base = Detector().eval()
    for hold in ("views", "in_place"):
        box = GearBox(base, adapted(base, ["head"]), hold=hold)  # type: ignore[arg-type]
        images = [torch.randn(3, 4 + i, 4) for i in range(8)]
        with torch.inference_mode():
            found = box.mixed(BATCH)(images)
            assert [a["score"] for a in box.mixed(BATCH)(tuple(images))] == [a["score"] for a in found]
            for image, level, answer in zip(images, BATCH, found, strict=True):
                with box.at(level) as network:
                    assert torch.equal(answer["score"], network([image])[0]["score"])


def test_gears_in_place_run_mixed_batches_too(drn: nn.Module) -> None:
    adaptors = adapted(drn, ["base.0.1", "seg"])
    views, box = GearBox(drn, adaptors), GearBox(drn, adaptors, hold="in_place")
    x = torch.randn(8, 3, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(box.mixed(BATCH)(x), one_by_one(views, x, BATCH), rtol=0, atol=1e-5)


def test_threads_run_mixed_batches_at_once(drn: nn.Module) -> None:
    box = GearBox(drn, adapted(drn, ["base.0.1", "base.1.1", "seg"]))
    x = torch.randn(8, 3, 16, 16)
    orders = [BATCH[i:] + BATCH[:i] for i in range(4)]
    expected = [one_by_one(box, x, order) for order in orders]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(10):
            with torch.inference_mode():
                output = box.mixed(orders[number])(x)
            wrong.extend([number] if (output - expected[number]).abs().max() > 1e-4 else [])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


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
        for _ in range(8):
            with torch.inference_mode():
                torch.testing.assert_close(box.mixed(levels)(x), one_by_one(box, x, levels))
