import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import nn

from gearnn.adaptor import Adaptor
from gearnn.errors import GearError
from gearnn.gearbox import GearBox
from gearnn.gears.in_place import InPlace
from gearnn.layers import stored_tensors
from tests.conftest import TinyNet
from tests.shared.adaptors import make_adaptor

LEVELS = ("jpeg:quality=10", "jpeg:quality=30", "brightness:factor=0.3")
LAYERS = (["bn"], ["bn", "head"], ["conv"])


@pytest.fixture
def adaptors(tiny: nn.Module) -> list[Adaptor]:
    return [make_adaptor(tiny, level, names) for level, names in zip(LEVELS, LAYERS, strict=True)]


@pytest.fixture
def box(tiny: nn.Module, adaptors: list[Adaptor]) -> GearBox:
    return GearBox(tiny, adaptors, hold="in_place")


def gears_of(box: GearBox) -> InPlace:
    assert isinstance(box.gears, InPlace)
    return box.gears


def bits(model: nn.Module) -> dict[str, bytes]:
    return {name: tensor.detach().numpy().tobytes() for name, tensor in stored_tensors(model).items()}


def test_every_level_is_bit_for_bit_what_its_view_is_in_any_order(
    box: GearBox, tiny: nn.Module, adaptors: list[Adaptor]
) -> None:
    views = GearBox(tiny, adaptors)
    for level in (*LEVELS, "pristine", *reversed(LEVELS), LEVELS[1], "jpeg:quality=100"):
        box.shift(level)
        assert bits(gears_of(box).network) == bits(views.model(level)), level


def test_there_and_back_gives_the_base_bit_for_bit_buffers_included(box: GearBox, tiny: nn.Module) -> None:
    before = bits(tiny)
    for level in (*LEVELS, "pristine"):
        box.shift(level)
    assert bits(gears_of(box).network) == before == bits(tiny)


def test_tensors_keep_their_addresses(box: GearBox) -> None:
    network = gears_of(box).network
    addresses = {name: tensor.data_ptr() for name, tensor in stored_tensors(network).items()}
    for level in (*LEVELS, "pristine"):
        box.shift(level)
        assert {name: tensor.data_ptr() for name, tensor in stored_tensors(network).items()} == addresses


def test_slabs_are_contiguous_and_copied_in_few_pieces(box: GearBox) -> None:
    gears = gears_of(box)
    for level in box.levels:
        (slab,) = gears.own_tensors(level)
        assert slab.is_contiguous()
    assert [len(gears._copies[level][0]) for level in box.levels] == [2, 3, 3]


def test_a_failed_copy_leaves_the_gear_as_it_was(box: GearBox) -> None:
    gears = gears_of(box)
    box.shift(LEVELS[0])
    before = bits(gears.network)
    broken = box.levels[1]
    targets, sources = gears._copies[broken]
    gears._copies[broken] = (targets, [*sources[:-1], sources[-1][:-1]])
    with pytest.raises(GearError, match=r"shifting to jpeg:quality=30 failed, still at jpeg:quality=10: "):
        box.shift(LEVELS[1])
    assert bits(gears.network) == before
    assert str(gears.level) == LEVELS[0]
    box.shift(LEVELS[2])
    assert str(gears.level) == LEVELS[2]


def test_an_interrupted_copy_leaves_the_gear_as_it_was(box: GearBox, monkeypatch: pytest.MonkeyPatch) -> None:
    gears = gears_of(box)
    before = bits(gears.network)
    real = torch._foreach_copy_

    def interrupted(targets: list[torch.Tensor], sources: list[torch.Tensor]) -> None:
        monkeypatch.setattr(torch, "_foreach_copy_", real)
        real(targets[:1], sources[:1])
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "_foreach_copy_", interrupted)
    with pytest.raises(KeyboardInterrupt):
        box.shift(LEVELS[1])
    assert bits(gears.network) == before


def test_memory_formats_dtypes_and_tied_weights_survive(tiny: nn.Module) -> None:
    class Tied(TinyNet):
        def __init__(self) -> None:
            super().__init__()
            self.again = nn.Conv2d(3, 4, 3, padding=1)
            self.again.weight = self.conv.weight

    torch.manual_seed(1)
    base = Tied().eval().to(memory_format=torch.channels_last)
    base.bn.to(torch.float64)
    box = GearBox(base, [make_adaptor(base, LEVELS[0], ["conv", "bn"])], hold="in_place")
    network = gears_of(box).network
    views = GearBox(base, [make_adaptor(base, LEVELS[0], ["conv", "bn"])])
    for level in (LEVELS[0], "pristine"):
        box.shift(level)
        assert bits(network) == bits(views.model(level))
    for name, tensor in stored_tensors(base).items():
        ours = stored_tensors(network)[name]
        assert (ours.stride(), ours.dtype) == (tensor.stride(), tensor.dtype)
    assert network.again.weight is network.conv.weight


def test_calls_of_threads_at_different_levels_do_not_mix(
    box: GearBox, tiny: nn.Module, adaptors: list[Adaptor]
) -> None:
    views = GearBox(tiny, adaptors)
    x = torch.randn(1, 3, 8, 8)
    wrong: list[str] = []

    def work(level: str) -> None:
        expected = views(x, level)
        wrong.extend(level for _ in range(300) if not torch.equal(box(x, level), expected))

    threads = [threading.Thread(target=work, args=(level,)) for level in (*LEVELS, "pristine")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_exported_program_follows_the_gear(box: GearBox, tiny: nn.Module, adaptors: list[Adaptor]) -> None:
    views = GearBox(tiny, adaptors)
    x = torch.randn(2, 3, 8, 8)
    program = torch.export.export(gears_of(box).network, (x,)).module()
    for level in (*LEVELS, "pristine", LEVELS[0]):
        box.shift(level)
        with torch.no_grad():
            torch.testing.assert_close(program(x), views(x, level), rtol=0, atol=0)


@pytest.mark.parametrize("hold", ["views", "in_place"])
def test_ten_levels_share_one_compiled_program(tiny: nn.Module, hold: str) -> None:
    levels = [f"jpeg:quality={quality}" for quality in range(5, 55, 5)]
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    box = GearBox(tiny, [make_adaptor(tiny, level, ["bn", "head"]) for level in levels], hold=hold)  # type: ignore[arg-type]
    box.compile(backend="eager")
    x = torch.randn(1, 3, 8, 8)
    for level in (*levels, "pristine", *levels):
        box(x, level)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.gpu
def test_a_cuda_graph_follows_the_gear(tiny: nn.Module, adaptors: list[Adaptor]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    views = GearBox(tiny, adaptors)
    expected = {level: views(torch.ones(1, 3, 8, 8), level) for level in (*LEVELS, "pristine")}
    box = GearBox(tiny.cuda(), adaptors, hold="in_place")
    network, x = gears_of(box).network, torch.ones(1, 3, 8, 8, device="cuda")
    with torch.inference_mode():
        network(x)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = network(x)
        for level in (*LEVELS, "pristine"):
            box.shift(level)
            graph.replay()
            torch.testing.assert_close(output.cpu(), expected[level], rtol=1e-4, atol=1e-4)


def test_the_ways_say_what_the_other_one_is_for(box: GearBox, tiny: nn.Module) -> None:
    with pytest.raises(GearError, match="gears in place are one network"):
        box.model(LEVELS[0])
    with pytest.raises(GearError, match="views are not shifted"):
        GearBox(tiny, []).shift("pristine")
    with pytest.raises(GearError, match="hold: expected views or in_place, but got 'both'"):
        GearBox(tiny, [], hold="both")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        lambda network: network.double(),
        lambda network: network.head.to(memory_format=torch.channels_last).half(),
        lambda network: setattr(network, "head", nn.Conv2d(4, 9, 1)),
        lambda network: setattr(network.bn, "weight", nn.Parameter(torch.ones(4))),
        lambda network: network.to_empty(device="cpu"),
        lambda network: network.requires_grad_(True),
    ],
)
def test_a_network_that_was_moved_or_converted_is_not_shifted_in_silence(
    tiny: nn.Module, change: Callable[[nn.Module], object]
) -> None:
    box = GearBox(tiny, [make_adaptor(tiny, level, ["bn", "head"]) for level in LEVELS], hold="in_place")
    box.shift(LEVELS[0])
    change(gears_of(box).network)
    for call in (lambda: box.shift(LEVELS[1]), lambda: box(torch.zeros(1, 3, 8, 8), LEVELS[0])):
        with pytest.raises(GearError, match="was moved, converted or replaced, so that shifts would not reach it"):
            call()


def test_a_gearbox_made_in_inference_mode_shifts_outside_of_it(tiny: nn.Module, adaptors: list[Adaptor]) -> None:
    views = GearBox(tiny, adaptors)
    with torch.inference_mode():
        box = GearBox(tiny, adaptors, hold="in_place")
    for level in LEVELS:
        box.shift(level)
        assert bits(gears_of(box).network) == bits(views.model(level))


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_autocast_never_runs_a_level_with_the_casts_of_the_one_before(
    tiny: nn.Module, mode: Callable[[], AbstractContextManager[object]]
) -> None:
    adaptors = [make_adaptor(tiny, LEVELS[0], ["head"]), make_adaptor(tiny, LEVELS[1], ["conv"])]
    box, views, x = GearBox(tiny, adaptors, hold="in_place"), GearBox(tiny, adaptors), torch.randn(1, 3, 8, 8)
    for level in (LEVELS[0], LEVELS[1], "pristine"):
        with torch.autocast("cpu", dtype=torch.bfloat16), mode():
            with box.at(LEVELS[0]) as network:
                network(x)
            with box.at(level) as network:
                found = network(x)
        with torch.autocast("cpu", dtype=torch.bfloat16), mode():
            assert torch.equal(found, views.model(level)(x)), level


def test_a_level_inside_of_another_ones_context_gives_the_network_back(
    box: GearBox, tiny: nn.Module, adaptors: list[Adaptor]
) -> None:
    views, x = GearBox(tiny, adaptors), torch.randn(2, 3, 8, 8)
    with torch.inference_mode(), box.at(LEVELS[0]) as network:
        before = network(x)
        assert torch.equal(box(x, LEVELS[1]), views(x, LEVELS[1]))
        box.mixed([LEVELS[1], "pristine"])(x)
        assert torch.equal(network(x), before)
        with pytest.raises(GearError, match="no adaptor"), box.at("jpeg:quality=77"):
            pass
        assert torch.equal(network(x), before)
