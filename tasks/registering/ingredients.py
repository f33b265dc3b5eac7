"""What decides an adaptor, in a form that is kept with its version and compared with a plan later."""

from collections.abc import Iterator, Mapping
from typing import Any

from gearnn.distortions import kind_of, needs_calibration
from gearnn.levels import DistortionLevel
from gearnn.plan.opened import Opened
from gearnn.store.storage import digest_of
from tasks.adapting.base import prepare_base
from tasks.adapting.evaluate import evaluate_solution
from tasks.adapting.finetune import full_finetune, partial_finetune
from tasks.adapting.knapsack import choose_layers
from tasks.adapting.portfolio import try_selections
from tasks.adapting.sensitivity import measure_sensitivity
from tasks.records import Base, Data

STEPS = (
    prepare_base,
    full_finetune,
    measure_sensitivity,
    choose_layers,
    try_selections,
    partial_finetune,
    evaluate_solution,
)
"""Their versions are the part of this library that matters: raised when a step would give another result."""


def ingredients_of(opened: Opened, base: Base, data: Data, level: str) -> dict[str, Any]:
    """What decides the adaptor of one level, as JSON values.

    Neither the device nor the precision nor the number of threads is part of it: another machine that
    runs the same plan does not make an adaptor out of date.
    """
    plan = opened.plan
    parts: dict[str, Any] = {
        "base": base.fingerprint[:16],
        "data": {role: digest[:16] for role, digest in sorted(data.digests.items())},
        "problem": digest_of(opened.problem.describe())[:16],
        "bound": plan.bound.in_values(base.num_values),
        "granularity": plan.bound.granularity,
        "batchnorm_statistics": plan.bound.batchnorm_statistics,
        "select": plan.bound.select,
        "finetune": plan.finetune.facts(),
        "partial": plan.of_adaptors.facts(),
        "seed": plan.seed,
        "steps": {step.name: step.version for step in STEPS},
    }
    if opened.identity:
        parts["network"] = digest_of(opened.identity)[:16]
    calibrated = {kind: list(kind_of(kind).features) for kind in needs_calibration(DistortionLevel.parse(level))}
    if calibrated:
        parts["calibrated"] = calibrated
    return parts


def differences(made: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[str, ...]:
    """What changed between two sets of ingredients, in words.

    >>> differences({"finetune": {"epochs": 2}, "base": "ab"}, {"finetune": {"epochs": 4}, "base": "cd"})
    ('base ab -> cd', 'finetune.epochs 2 -> 4')
    """
    before, after = dict(_flat(made)), dict(_flat(wanted))
    return tuple(
        f"{key} {_told(before.get(key))} -> {_told(after.get(key))}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    )


def _flat(parts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in parts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _told(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text[:8] if len(text) == 16 and set(text) <= set("0123456789abcdef") else text
