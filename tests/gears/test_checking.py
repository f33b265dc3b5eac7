"""A gearbox checks once, on copies, that its gears answer as deep copies with the adaptors' tensors do."""

import warnings
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gearnn.adaptor import Adaptor
from gearnn.errors import GearError, PlanError
from gearnn.gearbox import GearBox
from gearnn.gears.holding import Hold
from gearnn.layers import layers_of, stored_tensors
from gearnn.machine.compute import own_copy
from gearnn.problems.segmentation import SemanticSegmentation
from tests.shared.adaptors import HOLDS, LEVELS, adapted


class Body(nn.Module):
    """Two convolutions and a head; what varies comes in subclasses."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.middle, self.head = nn.ReLU(), nn.Linear(4, 3)

    def features(self, x: Tensor) -> Tensor:
        return self.two(self.middle(self.one(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


class BoundHook(Body):
    """Collects a feature map by a hook that is bound to the network, as timm's extractors do."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, Tensor] = {}
        self.middle.register_forward_hook(partial(self.keep, "middle"))

    def keep(self, name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.kept[name] = output

    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x)
        return self.head((y + self.kept["middle"]).mean((2, 3)))


class ParameterInAList(Body):
    """Refers to a parameter from a plain list, a tie that is not registered."""

    def __init__(self) -> None:
        super().__init__()
        self.ties = {"kernels": [self.one.weight]}

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.ties["kernels"][0].mean()


class ModuleInAList(Body):
    """Runs its modules from a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.order = [self.one, self.middle, self.two]

    def features(self, x: Tensor) -> Tensor:
        for module in self.order:
            x = module(x)
        return x


class Overlapping(Body):
    """Its parameters are slices of one piece of memory, and one of them is expanded."""

    def __init__(self) -> None:
        super().__init__()
        piece = torch.randn(64)
        self.first, self.second = nn.Parameter(piece[:8:2]), nn.Parameter(piece[2:6])
        self.wide = nn.Parameter(torch.randn(1, 4).expand(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)) * self.first + self.second + self.wide.sum(0))


class Spectral(Body):
    """Its kernel is computed from parametrised weights."""

    def __init__(self) -> None:
        super().__init__()
        nn.utils.parametrizations.spectral_norm(self.one)
        nn.utils.parametrizations.weight_norm(self.two)


class HookedNorm(Body):
    """Its kernel is computed by a hook before every call, which leaves it in the module."""

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch prefers parametrisations
            nn.utils.weight_norm(self.one)


class Recurrent(Body):
    """A recurrent layer keeps its weights in a second place."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.LSTM(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(self.features(x).mean(2).transpose(1, 2))[0].mean(1))


class DerivedWeights(Body):
    """Keeps a derived weight between calls until it trains again, as LeViT does."""

    def __init__(self) -> None:
        super().__init__()
        self.derived: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> "DerivedWeights":
        self.derived = {}
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        if "shift" not in self.derived:
            self.derived["shift"] = self.head.weight.sum(1)
        return super().forward(x) + self.derived["shift"]


class Counting(Body):
    """A forward pass changes a buffer that takes part in the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.data += 1
        return super().forward(x) * self.calls


RIGHT = [Body, BoundHook, ParameterInAList, ModuleInAList, Overlapping, Spectral, HookedNorm, Recurrent]


def made(kind: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().eval()


def every_layer(base: nn.Module) -> list[Adaptor]:
    """Adaptors of all layers; they are made of a copy that can be copied once more, whatever a hook has left."""
    return adapted(own_copy(base), [layer.name for layer in layers_of(base)])


def own_network(base: nn.Module, adaptor: Adaptor | None) -> nn.Module:
    """The reference: a deep copy with the adaptor's tensors, ready to run after training."""
    network = own_copy(base)
    with torch.no_grad():
        for name, tensor in (adaptor.tensors if adaptor else {}).items():
            stored_tensors(network)[name].copy_(tensor)
    return network.train().eval()


@pytest.mark.parametrize("hold", HOLDS)
@pytest.mark.parametrize("kind", RIGHT)
def test_gears_answer_as_deep_copies_whatever_refers_to_their_tensors(
    kind: Callable[[], nn.Module], hold: Hold
) -> None:
    base = made(kind)
    adaptors, x = every_layer(base), torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        expected = {str(a.level): own_network(base, a)(x) for a in adaptors} | {"pristine": own_network(base, None)(x)}
        base(torch.randn(2, 3, 8, 8))  # whatever it keeps between calls, it keeps now
    box = GearBox(base, adaptors, hold=hold)
    for level in (*LEVELS, "pristine", *reversed(LEVELS)):
        torch.testing.assert_close(box(x, level), expected[level], rtol=1e-6, atol=1e-6)
    assert (expected[LEVELS[0]] - expected["pristine"]).abs().max() > 1e-3 * expected["pristine"].abs().max()


@pytest.mark.parametrize("kind", RIGHT)
def test_an_adaptor_applied_is_the_deep_copy_too(kind: Callable[[], nn.Module]) -> None:
    base = made(kind)
    x = torch.randn(2, 3, 8, 8)
    for adaptor in every_layer(base):
        with torch.inference_mode():
            torch.testing.assert_close(adaptor.apply(base)(x), own_network(base, adaptor)(x), rtol=1e-6, atol=1e-6)


def test_derived_weights_are_made_anew_in_every_view_and_refused_in_place() -> None:
    base = made(DerivedWeights)
    adaptors, x = every_layer(base), torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        base(x)
    box = GearBox(base, adaptors)
    with torch.inference_mode():
        for adaptor in adaptors:
            torch.testing.assert_close(box(x, adaptor.level), own_network(base, adaptor)(x))
    with pytest.raises(
        GearError,
        match=r"gears in place give other outputs than a deep copy of the network at its root \(DerivedWeights\); "
        r"does it keep tensors .* hold='views' may do",
    ):
        GearBox(base, adaptors, hold="in_place")


def test_tensors_that_a_forward_pass_changes_are_every_views_own_and_refused_in_place() -> None:
    base = made(Counting)
    adaptors, x = every_layer(base), torch.randn(2, 3, 8, 8)
    box = GearBox(base, adaptors)
    assert stored_tensors(base)["calls"] == 0  # the check ran on copies
    with torch.inference_mode():
        for adaptor in adaptors:
            reference = own_network(base, adaptor)
            for _ in range(2):
                torch.testing.assert_close(box(x, adaptor.level), reference(x))
    assert stored_tensors(base)["calls"] == 0
    with pytest.raises(GearError, match="changes none of its tensors, but it changes calls; hold='views' gives every"):
        GearBox(base, adaptors, hold="in_place")


def test_the_check_runs_neither_the_base_nor_the_gears() -> None:
    class Noting(Body):
        runs = 0

        def forward(self, x: Tensor) -> Tensor:
            self.runs += 1
            return super().forward(x)

    base = made(Noting)
    for hold in HOLDS:
        box = GearBox(base, every_layer(base), hold=hold)
        assert [network.runs for network in box.gears.networks()] == [0] * len(box.gears.networks())


def test_modules_that_keep_nothing_are_shared_and_those_with_hooks_are_not() -> None:
    for kind, shared in ((Body, True), (BoundHook, False)):
        base = made(kind)
        view = GearBox(base, adapted(base, ["one"])).model(LEVELS[0])
        assert (view.middle is base.middle) == shared
        assert view.two is base.two
        assert view.two.weight is base.two.weight


def test_where_no_batch_is_found_that_is_logged_and_the_first_one_that_runs_is_checked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Odd(DerivedWeights):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[1:] != (3, 5, 7):
                raise ValueError("expected frames of 7x5")
            return super().forward(x)

    base = made(Odd)
    adaptors, x = every_layer(base), torch.randn(2, 3, 5, 7)
    box = GearBox(base, adaptors, hold="in_place")  # nothing is known yet
    assert "no batch was found that the network takes" in caplog.text
    assert "ValueError: expected frames of 7x5" in caplog.text
    with pytest.raises(ValueError, match="expected frames of 7x5"):
        box(torch.zeros(2, 3, 4, 4), LEVELS[0])  # the network's own words
    for _ in range(2):
        with pytest.raises(GearError, match="gears in place give other outputs"):
            box(x, LEVELS[0])
        with pytest.raises(GearError, match="gears in place give other outputs"):
            box.mixed(LEVELS[:2])(x)
    with pytest.raises(GearError, match="gears in place give other outputs"):
        GearBox(base, adaptors, hold="in_place", example=x)
    with pytest.raises(GearError, match="example: expected a batch that the network takes, but it says ValueError"):
        GearBox(base, adaptors, example=torch.zeros(2, 3, 4, 4))
    views = GearBox(base, adaptors)
    kept = views.model(LEVELS[0])
    with torch.inference_mode():
        torch.testing.assert_close(views(x, LEVELS[0]), own_network(base, adaptors[0])(x))
    assert views.model(LEVELS[0]) is kept  # who has a gear keeps it
    assert not views._unchecked


def test_a_network_that_takes_frames_of_one_size_only_is_checked_at_once() -> None:
    for side in (8, 11, 28, 40):
        torch.manual_seed(0)
        base = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * (side - 2) ** 2, 3)).eval()
        assert not GearBox(base, adapted(base, ["0"]), hold="in_place")._unchecked, side


def test_a_network_of_two_arguments_is_checked_with_an_example_of_two() -> None:
    class Two(DerivedWeights):
        def forward(self, x: Tensor, shift: Tensor) -> Tensor:
            return super().forward(x) + shift

    base = made(Two)
    example = torch.randn(2, 3, 8, 8), torch.randn(2, 3)
    with pytest.raises(GearError, match="gears in place give other outputs"):
        GearBox(base, every_layer(base), hold="in_place", example=example)
    assert not GearBox(base, every_layer(base), example=example)._unchecked


@pytest.mark.parametrize("hold", HOLDS)
def test_a_base_that_has_kept_derived_weights_for_good_is_refused(hold: Hold) -> None:
    class Keeping(Body):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(3, 3))
            self.kept: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            if self.kept is None:
                self.kept = self.table.softmax(1).detach()
            return super().forward(x) @ self.kept

    base = made(Keeping)
    adaptors = every_layer(base)
    if hold == "views":
        GearBox(base, adaptors)  # it has not run yet
    with torch.inference_mode():
        base(torch.randn(2, 3, 8, 8))
    with pytest.raises(GearError, match=r"keeps a tensor of an earlier run, and table changes nothing any more"):
        GearBox(base, adaptors, hold=hold)


def beside(module: nn.Module) -> Any:
    """Something that a network holds without naming it a part."""
    return [nn.Sequential(module)]


@pytest.mark.parametrize(
    ("holding", "as_buffer"),
    [(beside, False), (beside, True), (nn.Sequential, False), (lambda module: module, False)],
)
def test_a_table_that_another_module_keeps_is_noticed_too(holding: Callable[[nn.Module], Any], as_buffer: bool) -> None:
    class Keeping(Body):
        def __init__(self) -> None:
            super().__init__()
            self.table, keeper = nn.Parameter(torch.randn(3, 3)), nn.Identity()
            self.held, self.find = holding(keeper), [keeper]

        def forward(self, x: Tensor) -> Tensor:
            keeper = self.find[0]
            if not hasattr(keeper, "kept"):
                kept = self.table.softmax(1).detach()
                keeper.register_buffer("kept", kept) if as_buffer else setattr(keeper, "kept", kept)
            return super().forward(x) @ keeper.kept

    base = made(Keeping)
    with torch.inference_mode():
        base(torch.randn(2, 3, 8, 8))
    with pytest.raises(GearError, match=r"keeps a tensor of an earlier run, and table changes nothing any more"):
        GearBox(base, every_layer(base))


@pytest.mark.parametrize("hold", HOLDS)
@pytest.mark.parametrize("is_given", [False, True])
def test_a_network_that_cannot_be_copied_is_refused_and_not_left_unchecked(hold: Hold, is_given: bool) -> None:
    base = made(Body)
    kept: dict[str, Any] = {}
    base.kept = kept
    base.middle.register_forward_hook(lambda module, inputs, output: kept.update(middle=output))
    example = torch.randn(2, 3, 8, 8) if is_given else None
    with pytest.raises(PlanError, match="a forward hook of middle keeps a part of it"):
        GearBox(base, every_layer(base), hold=hold, example=example)


def test_settings_that_refer_to_each_other_are_no_maze() -> None:
    base = made(Body)
    settings = [SimpleNamespace() for _ in range(12)]
    for one in settings:
        one.others = settings
    base.one.settings, base.settings = settings, settings
    assert not GearBox(base, every_layer(base))._unchecked


@pytest.mark.parametrize("hold", HOLDS)
def test_a_buffer_that_the_first_forward_pass_registers_is_no_obstacle(hold: Hold) -> None:
    class Late(Body):
        def forward(self, x: Tensor) -> Tensor:
            if not hasattr(self, "grid"):
                self.register_buffer("grid", torch.linspace(0, 1, x.shape[-1]))
            return super().forward(x * self.grid)

    base = made(Late)
    adaptors, x = every_layer(base), torch.randn(2, 3, 64, 64)
    box = GearBox(base, adaptors, hold=hold)
    with torch.inference_mode():
        torch.testing.assert_close(box(x, LEVELS[1]), own_network(base, adaptors[1])(x), rtol=1e-5, atol=1e-6)


def test_a_problem_says_how_frames_are_given_to_the_network(tiny: nn.Module, problem: SemanticSegmentation) -> None:
    class Padded(nn.Module):
        """Takes only frames that the problem has made multiples of its stride."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny

        def forward(self, x: Tensor) -> Tensor:
            assert x.dtype == torch.float32
            assert float(x.min()) >= -2.0 - 1e-6  # normalised pixels, not noise
            return self.inner(x)

    base = Padded().eval()
    assert not GearBox(base, adapted(base, ["inner.conv"]), problem)._unchecked


def test_a_network_that_gives_classes_is_told_apart_too() -> None:
    """Most frames keep their class, whichever weights a network has."""

    class Classes(DerivedWeights):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).argmax(1)

    base = made(Classes)
    with pytest.raises(GearError, match="gears in place give other outputs"):
        GearBox(base, every_layer(base), hold="in_place")
