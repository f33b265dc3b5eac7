"""The pictures of a benchmark's page show every solution that a level has."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

from gearnn.evaluation import solutions
from gearnn.models import load_model
from gearnn.plan import Plan
from gearnn.plan.opened import Opened
from gearnn.store.storage import Ref
from tasks.benchmarking import examples
from tasks.records import AdaptorFile, Base, Entrant, Failure, Measured, Network

LEVEL = "jpeg:quality=5"
REF = Ref(uri="objects/x", sha256="x", size=1)
NETWORK = Network(level=LEVEL, weights=REF, epoch_losses=(), seconds=0.0)
ADAPTOR = AdaptorFile(level=LEVEL, file=REF, num_values=1, epoch_losses=(), seconds=0.0)
DIED = Failure(kind=solutions.DIVERGED, reason="DivergedError: the loss is nan")


def measured(solution: str, **what: Any) -> Measured:
    return Measured(entrant=Entrant(solution=solution, trained=LEVEL, seed=0, **what), level=LEVEL)


def test_base_adaptor_and_full_fine_tune_are_drawn_and_what_died_is_not(tmp_path: Path) -> None:
    plan = Plan.read(
        {
            "base": {"name": "drn_d_22_quarter", "num_classes": 9, "train": {}},
            "data": {"name": "streets", "frames": {"train": 1, "val": 1, "test": 1}},
            "levels": [LEVEL],
            "store": str(tmp_path),
            "benchmark": {"examples": 1},
        },
        source="test",
    )
    base = Base(weights=REF, fingerprint="f", num_values=1)
    alive = [measured(solutions.ADAPTOR, adaptor=ADAPTOR), measured(solutions.FULL, network=NETWORK)]
    died = [measured(solutions.ADAPTOR, failure=DIED), measured(solutions.FULL, network=NETWORK)]
    with patch.object(examples, "solution_of", lambda *_: load_model("drn_d_22_quarter", 9)):
        (all_drawn,), (one_died,) = (examples.draw_examples(Opened(plan), base, found) for found in (alive, died))
    assert [*all_drawn[LEVEL]] == ["frame", "truth", solutions.BASE, solutions.ADAPTOR, solutions.FULL]
    assert [*one_died[LEVEL]] == ["frame", "truth", solutions.BASE, solutions.FULL]
