"""How many fine-tunes run at a time."""

import os

import torch

from gearnn.plan import Plan


def workers_for(plan: Plan) -> int:
    """Number of concurrent tasks: what the plan says, else as many as the cores bear, or one on a GPU."""
    if plan.workers is not None:
        return plan.workers
    if plan.device.startswith("cuda") or (plan.device == "auto" and torch.cuda.is_available()):
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // plan.threads)
