import types
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from gearnn.errors import PlanError
from gearnn.machine.compute import own_copy

Hook = Callable[..., Any]


class Net(nn.Module):
    """A body whose features a hook keeps for the head."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
        self.feats: dict[str, Any] = {}
        self.options = {"scale": 2.0}

    def keep(self, _module: nn.Module, _inputs: Any, output: torch.Tensor, name: str = "x") -> None:
        self.feats[name] = output

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.body(x)
        return self.head(self.feats["x"])


NET = Net()


def by_default(net: Net) -> Hook:
    def hook(_m: nn.Module, _i: Any, output: torch.Tensor, feats: dict[str, Any] = net.feats) -> None:
        feats["x"] = output

    return hook


def by_keyword(net: Net) -> Hook:
    def hook(_m: nn.Module, _i: Any, output: torch.Tensor, *, owner: Net = net) -> None:
        owner.feats["x"] = output

    return hook


def by_function_in_a_function(net: Net) -> Hook:
    keep = partial(lambda feats, output: feats.__setitem__("x", output), net.feats)
    return lambda m, i, o: keep(o)


def by_weak_reference(net: Net) -> Hook:
    owner = weakref.ref(net)
    return lambda m, i, o: owner().feats.__setitem__("x", o)  # type: ignore[union-attr]


def by_wrapper(net: Net) -> Hook:
    whole = nn.ModuleList([net])
    return lambda m, i, o: whole[0].feats.__setitem__("x", o)  # type: ignore[union-attr, operator]


REFUSED: dict[str, Callable[[Net], Hook]] = {
    "a module in the closure": lambda net: lambda m, i, o: net.feats.__setitem__("x", o),
    "a dictionary in the closure": lambda net: (lambda feats: lambda m, i, o: feats.__setitem__("x", o))(net.feats),
    "a method in the closure": lambda net: (lambda keep: lambda m, i, o: keep(m, i, o))(net.keep),
    "a weight in the closure": lambda net: (lambda weight: lambda m, i, o: o * weight.mean())(net.head.weight),
    "a default": by_default,
    "a default by keyword": by_keyword,
    "a partial in the closure": by_function_in_a_function,
    "a weak reference": by_weak_reference,
    "a network around it": by_wrapper,
}


@pytest.mark.parametrize("way", REFUSED)
def test_a_hook_that_would_stay_with_the_original_is_refused_and_named(way: str) -> None:
    net = Net()
    net.body.register_forward_hook(REFUSED[way](net))
    with pytest.raises(
        PlanError, match=r"but a forward hook of body keeps a part of it in .*; make it a method"
    ) as info:
        own_copy(net)
    assert "\n" not in str(info.value)


def test_a_hook_that_finds_the_network_by_a_global_name_is_refused() -> None:
    handle = NET.body.register_forward_hook(lambda m, i, o: NET.feats.__setitem__("x", o))
    try:
        with pytest.raises(PlanError, match="a forward hook of body keeps a part of it"):
            own_copy(NET)
    finally:
        handle.remove()
    assert isinstance(own_copy(NET), Net)


def test_every_kind_of_hook_and_attribute_is_looked_at() -> None:
    def refused(prepare: Callable[[Net], Any]) -> str:
        net = Net()
        prepare(net)
        with pytest.raises(PlanError) as info:
            own_copy(net)
        return str(info.value)

    assert "a forward pre hook of body" in refused(
        lambda n: n.body.register_forward_pre_hook(lambda m, i: n.feats.clear())
    )
    assert "a backward hook of head" in refused(
        lambda n: n.head.register_full_backward_hook(lambda m, i, o: n.feats.clear())
    )
    assert "a state dict hook of body" in refused(
        lambda n: n.body.register_state_dict_post_hook(lambda *given: n.feats.clear())
    )
    assert "attribute run of the network" in refused(lambda n: setattr(n, "run", lambda x: n.head(n.body(x))))
    assert "attribute runs of body" in refused(lambda n: setattr(n.body, "runs", [{"a": (lambda x: n.head(x),)}]))
    assert "attribute run of head" in refused(lambda n: setattr(n.head, "run", partial(lambda f, x: n.body(x), 3)))
    assert "attribute put of head" in refused(lambda n: setattr(n.head, "put", n.feats.update))
    assert "attribute tool of head" in refused(
        lambda n: setattr(n.head, "tool", types.SimpleNamespace(run=lambda x: n.body(x)))
    )
    assert "attribute forward of body" in refused(
        lambda n: setattr(n.body, "forward", types.MethodType(lambda self, x: n.head(x), n.body))
    )


def test_what_a_copy_binds_to_itself_is_copied() -> None:
    net = Net()
    net.body.register_forward_hook(partial(net.keep, name="y"))
    net.body.register_forward_hook(net.keep)
    copied = own_copy(net)
    with torch.no_grad():
        copied.body.weight.mul_(2.0)  # type: ignore[union-attr, operator]
    x = torch.randn(1, 3, 4, 4)
    assert torch.equal(copied(x), copied.head(copied.body(x)))  # type: ignore[operator]
    assert net.feats == {}
    assert isinstance(copied.feats, dict)
    assert copied.feats.keys() == {"x", "y"}


def test_functions_over_anything_else_are_no_reason_to_refuse() -> None:
    net, other, sizes, scale = Net(), nn.Linear(2, 2), [1, 2], 3.0
    seen: list[Any] = []
    act = torch.nn.functional.relu
    net.run = lambda x, config={"a": 1}: act(x) * scale + len(sizes) + config["a"]
    net.teacher = lambda x: other(x)
    net.body.register_forward_hook(lambda m, i, o: seen.append(o))
    assert isinstance(own_copy(net), Net)


def test_features_with_a_history_are_copied_too() -> None:
    net = Net()
    net.body.register_forward_hook(net.keep)
    net(torch.randn(1, 3, 4, 4))
    assert not net.feats["x"].is_leaf
    assert torch.equal(own_copy(net).feats["x"], net.feats["x"])  # type: ignore[index, arg-type]
