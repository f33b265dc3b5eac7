"""Rows of a benchmark's table, planted."""

import math
from collections.abc import Sequence
from typing import Any

from gearnn.evaluation import solutions

LEVELS = ["jpeg:quality=5", "jpeg:quality=20", "jpeg:quality=100"]


def row(solution: str, tested: str, value: float, **changes: Any) -> dict[str, Any]:
    trained = tested if solution in solutions.PER_LEVEL else ""
    facts = {
        "solution": solution,
        "setting": "",
        "level_trained": trained,
        "level_tested": tested,
        "split": "test",
        "metric": "miou",
        "is_primary": True,
        "value": value,
        "low": value - 1,
        "high": value + 1,
        "draws": [value - 0.5, value, value + 0.5],
        "seed": 0,
        "num_values": 10,
        "seconds": 1.0,
        "status": "ok",
        "reason": "",
        "run_id": "r",
    }
    return facts | changes


def failed(solution: str, tested: str, kind: str, **changes: Any) -> dict[str, Any]:
    return row(solution, tested, math.nan, metric="", is_primary=False, status=kind, reason="planted") | changes


def full_table(**changes: Sequence[float]) -> list[dict[str, Any]]:
    values = {
        solutions.BASE: (30.0, 50.0, 55.0),
        solutions.CLEAN: (31.0, 50.0, 56.0),
        solutions.MIXED: (40.0, 51.0, 53.0),
        solutions.FULL: (46.0, 51.5),
        solutions.ADAPTOR: (44.5, 52.0),
    }
    return [row(s, level, value) for s, own in values.items() for level, value in zip(LEVELS, own, strict=False)]
