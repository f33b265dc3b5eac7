"""Ways to hold the gears of a gearbox: many adaptors resident beside one base (section 3.3)."""

from gearnn.gears.checking import check, check_values, first_taken, why_not_apart
from gearnn.gears.examples import Example, examples
from gearnn.gears.holding import Gears, Hold
from gearnn.gears.in_place import InPlace
from gearnn.gears.views import Views

__all__ = [
    "Example",
    "Gears",
    "Hold",
    "InPlace",
    "Views",
    "check",
    "check_values",
    "examples",
    "first_taken",
    "why_not_apart",
]
