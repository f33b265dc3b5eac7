"""What a user writes: the plan, its sections, what it names, opened, and what is checked before work starts."""

from gearnn.plan.plan import Plan

__all__ = ["Plan"]
