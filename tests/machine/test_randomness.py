from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gearnn.errors import PlanError
from gearnn.machine.randomness import own_stream

CPU = torch.device("cpu")
DRAWS: dict[str, Callable[[], Tensor]] = {
    "permutation": lambda: torch.randperm(9),
    "uniform": lambda: torch.rand(3),
    "like": lambda: torch.rand_like(torch.ones(3)),
    "normal": lambda: torch.randn(3),
    "integers": lambda: torch.randint(2, 99, (5,)),
    "integers like": lambda: torch.randint_like(torch.ones(9), 50),
    "into": lambda: torch.rand(3, out=torch.empty(3)),
    "fused dropout": lambda: torch.native_dropout(torch.ones(9), 0.5, True)[0],
    "in place": lambda: torch.empty(3).normal_(),
    "bernoulli": lambda: torch.bernoulli(torch.full((9,), 0.5)),
    "multinomial": lambda: torch.multinomial(torch.ones(9), 4),
    "dropout": lambda: F.dropout(torch.ones(9, requires_grad=True)),
    "dropout of maps": lambda: F.dropout2d(torch.ones(1, 9, 1, 1)),
    "alpha dropout": lambda: F.alpha_dropout(torch.ones(9), 0.5, training=True),
    "attention": lambda: F.scaled_dot_product_attention(*[torch.ones(1, 1, 4, 4)] * 3, dropout_p=0.5),
    "leaky": lambda: F.rrelu(-torch.ones(9), training=True),
    "gumbel": lambda: F.gumbel_softmax(torch.ones(9)),
    "stochastic depth": lambda: torchvision.ops.stochastic_depth(torch.ones(9, 1), 0.5, "row"),
}


@pytest.mark.parametrize("name", DRAWS)
def test_draws_come_from_the_keys_stream_and_leave_the_global_one_alone(name: str) -> None:
    before = torch.get_rng_state()
    with own_stream(CPU, 0, 1):
        first = DRAWS[name]()
    torch.rand(7)
    with own_stream(CPU, 0, 1):
        again = DRAWS[name]()
    with own_stream(CPU, 0, 2):
        others = [DRAWS[name]() for _ in range(5)]
    assert torch.equal(first, again)
    assert not all(torch.equal(first, other) for other in others)
    torch.set_rng_state(before)
    expected = torch.rand(1)
    torch.set_rng_state(before)
    with own_stream(CPU, 3):
        DRAWS[name]()
    assert torch.equal(torch.rand(1), expected)


def test_threads_that_draw_at_the_same_time_do_not_disturb_each_other() -> None:
    network, start = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 8), nn.Dropout(0.5)), Barrier(4)

    def draws(key: int) -> list[Tensor]:
        start.wait()
        results = []
        for step in range(50):
            with own_stream(CPU, key, step):
                results.append(network(torch.ones(2, 8)).detach())
        return results

    with ThreadPoolExecutor(4) as pool:
        first, second, third, fourth = pool.map(draws, (1, 2, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, third, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(second, fourth, strict=True))
    assert not torch.equal(first[0], second[0])


def test_what_is_computed_does_not_change() -> None:
    network, frames = nn.Conv2d(3, 4, 3), torch.rand(1, 3, 8, 8)
    expected = network(frames)
    with own_stream(CPU, 0):
        assert torch.equal(network(frames), expected)
        given = torch.rand(3, generator=torch.Generator().manual_seed(5))
    assert torch.equal(given, torch.rand(3, generator=torch.Generator().manual_seed(5)))


@pytest.mark.parametrize("reentrant", [True, False])
def test_recomputing_draws_in_the_backward_pass_is_refused(reentrant: bool) -> None:
    network, frames = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)), torch.ones(2, 4, requires_grad=True)
    with own_stream(CPU, 0), pytest.raises(PlanError, match="activation checkpointing"):
        checkpoint(network, frames, use_reentrant=reentrant).sum().backward()


def test_a_stream_within_a_stream_is_its_own() -> None:
    def inner() -> tuple[Tensor, Tensor]:
        with own_stream(CPU, "inner"):
            return torch.rand(3), F.dropout2d(torch.ones(1, 9, 1, 1))

    alone = inner()
    with own_stream(CPU, "outer"):
        within = inner()
        assert not torch.equal(torch.rand(3), alone[0])
    assert all(torch.equal(a, b) for a, b in zip(alone, within, strict=True))


class OtherDevice:
    """What torch knows of a device that is no CPU: one default generator for all threads."""

    def __init__(self) -> None:
        self.default_generators = (torch.Generator(), torch.Generator())

    def init(self) -> None: ...

    def current_device(self) -> int:
        return 0


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> OtherDevice:
    device = OtherDevice()
    monkeypatch.setattr(torch, "get_device_module", lambda _: device)
    return device


def test_another_devices_generator_is_seeded_alone_and_put_back(other: OtherDevice) -> None:
    first, second = other.default_generators
    states = torch.get_rng_state(), first.get_state(), second.get_state()
    with own_stream(torch.device("cuda:1"), 7):
        drawn = torch.rand(3, generator=second)
        assert torch.equal(first.get_state(), states[1])
        torch.rand(3)
    with own_stream(torch.device("cuda:1"), 7):
        assert torch.equal(torch.rand(3, generator=second), drawn)
    with pytest.raises(RuntimeError, match="size"), own_stream(torch.device("cuda"), 8):
        torch.rand(3, generator=first).add_(torch.rand(2, generator=first))
    found = torch.get_rng_state(), first.get_state(), second.get_state()
    assert all(torch.equal(a, b) for a, b in zip(states, found, strict=True))


def test_draws_on_the_cpu_of_a_network_elsewhere_repeat(other: OtherDevice) -> None:
    drawn = []
    for _ in range(2):
        with own_stream(torch.device("cuda"), 7):
            drawn.append(torch.rand(3))
        torch.rand(1)
    assert torch.equal(*drawn)


def test_threads_that_draw_on_one_device_take_turns(other: OtherDevice) -> None:
    (generator, _), start = other.default_generators, Barrier(2)

    def draws(key: int) -> list[Tensor]:
        start.wait()
        results = []
        for step in range(50):
            with own_stream(torch.device("cuda:0"), key, step):
                results.append(torch.stack([torch.rand(3, generator=generator) for _ in range(5)]))
        return results

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(draws, (1, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
