"""What a user is given for one frame, whatever the problem."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A prediction for people and files.

    Attributes:
        text: in a few words.
        mask: class or instance of every pixel, uint8 or uint16 [H, W]; None where the problem has no pixels.
        facts: JSON values; empty where the mask says all.
    """

    text: str
    mask: np.ndarray | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
