"""Ways to hold the gears of a gearbox: many adaptors resident beside one base (section 3.3)."""

from gearnn.gears.holding import Gears, Hold
from gearnn.gears.in_place import InPlace
from gearnn.gears.views import Views

__all__ = ["Gears", "Hold", "InPlace", "Views"]
