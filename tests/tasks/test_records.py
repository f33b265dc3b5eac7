import pytest

from gearnn.errors import BoundError, DataError, DivergedError, PlanError
from tasks.records import Failure


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DivergedError("the loss became nan in epoch 1"), "diverged"),
        (PlanError("stability training: expected a problem that classifies"), "not possible"),
        (BoundError("bound: expected room for one layer"), "not possible"),
        (DataError("DivergedError: this only looks like one"), "failed"),
        (RuntimeError("anything else"), "failed"),
    ],
)
def test_a_failure_has_its_kind_from_the_error_and_not_from_its_words(error: Exception, kind: str) -> None:
    failure = Failure.of(error)
    assert (failure.kind, failure.reason) == (kind, f"{type(error).__name__}: {error}")
