"""Layers that are chosen without asking Eq. 2."""

from pathlib import Path
from typing import Any

import pytest
import torch

from gearnn.adaptor import Adaptor
from gearnn.layers import charged_once, fingerprint, layers_of, model_size, named
from gearnn.models import load_model
from gearnn.plan import Plan
from gearnn.plan.opened import Opened
from tasks.benchmarking.baselines import select_batchnorms, select_last
from tasks.records import Base


@pytest.mark.parametrize("policy", ["frozen", "selected", "all"])
def test_what_is_chosen_is_counted_as_its_adaptor_will_be(tmp_path: Path, policy: Any) -> None:
    torch.manual_seed(0)
    network = load_model("drn_d_22_quarter", 9)
    plan = Plan.read(
        {
            "base": {"name": "drn_d_22_quarter", "num_classes": 9, "train": {}},
            "data": {"name": "streets", "frames": {"train": 1, "val": 1, "test": 1}},
            "levels": ["jpeg:quality=5"],
            "bound": {"fraction": 0.01, "batchnorm_statistics": policy},
            "store": str(tmp_path),
        },
        source="test",
    )
    weights = Opened(plan).keep_network(network)
    base = Base(weights=weights, fingerprint=fingerprint(network), num_values=model_size(network))
    for select in (select_batchnorms, select_last):
        chosen = select.fn(plan, base, "jpeg:quality=5")
        layers = named(layers_of(network, "layer", policy), chosen.layers)
        adaptor = Adaptor.extract(
            network, network, layers, chosen.level, bound=chosen.bound, batchnorm_statistics=policy
        )
        assert adaptor.num_values == chosen.num_values <= chosen.bound
        assert chosen.num_values > charged_once(network, policy)
