"""A plan that runs in seconds, for tests of the workflow."""

from typing import Any


def tiny(
    name: str, levels: list[str], store: str, *, epochs: int = 1, frames: tuple[int, int] = (8, 4)
) -> dict[str, Any]:
    """Content of a plan on rendered streets with a base that it trains.

    Args:
        name: of the registered base.
        levels: in text.
        store: folder or bucket.
        epochs: of the base and of each fine-tune.
        frames: of the split train, and of each of val and test.
    """
    train, val = frames
    return {
        "base": {
            "name": "drn_d_22_quarter",
            "num_classes": 9,
            "train": {"epochs": epochs, "batch_size": 4, "clip": 1.0},  # no step so large that it may diverge
            "registered_as": name,
        },
        "data": {"name": "streets", "frames": {"train": train, "val": val, "test": val}, "camera": {"size": [44, 30]}},
        "levels": levels,
        "bound": {"fraction": 0.01},
        "finetune": {"epochs": epochs, "batch_size": 4, "optimizer": {"lr": 0.01}, "clip": 1.0},
        "promotion": {"over_base": False},  # so little training need not beat the base
        "store": store,
    }
