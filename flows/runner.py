"""How many fine-tunes run at a time, and with how many threads each."""

import os

import torch

from gearnn.plan import Plan


def workers_for(plan: Plan) -> int:
    """Number of concurrent tasks: what the plan says, else one a core on a CPU, one on a GPU.

    On a CPU the cores are shared out between the tasks, so that they do not fight; results depend
    on the number of threads, which is therefore the same for the same plan on the same machine.
    """
    on_gpu = plan.device.startswith("cuda") or (plan.device == "auto" and torch.cuda.is_available())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = plan.workers or (1 if on_gpu else min(cores, len(plan.levels) + 1))
    if not on_gpu:
        torch.set_num_threads(max(1, cores // workers))
    return workers
