"""Runs of a plan that end, or lose a server, at a point that is named: each a process of its own.

Read as a program: it imports all that a run needs once, then forks for every line that it reads, so that
a run costs no imports. A line is JSON: ``{"plan": file, "events": [[target, call, what], ...]}``, where the
target is ``module:attribute`` or ``module:Class.attribute``, and ``what`` happens before that call of it:
``kill``, or anything else, which is printed as a line; the run goes on when the reader has removed the file
that the line names. At its end every run prints a line: exit status or signal, and steps taken.
"""

import functools
import importlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any


def interfere(target: str, at_call: int, what: str) -> None:
    """Make something happen right before one call of a function."""
    module_name, _, path = target.partition(":")
    owner: Any = importlib.import_module(module_name)
    *classes, name = path.split(".")
    for part in classes:
        owner = getattr(owner, part)
    original, calls, lock = getattr(owner, name), [0], threading.Lock()

    @functools.wraps(original)
    def interfering(*args: Any, **kwargs: Any) -> Any:
        with lock:
            calls[0] += 1
            now = calls[0] == at_call
        if now:
            happen(what)
        return original(*args, **kwargs)

    setattr(owner, name, interfering)


def happen(what: str) -> None:
    """End this process as the kernel would for lack of memory, or let the reader do something."""
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    with tempfile.NamedTemporaryFile(delete=False) as file:
        os.write(READER, json.dumps({"what": what, "file": file.name}).encode() + b"\n")
    while Path(file.name).exists():
        time.sleep(0.05)


READER = os.dup(1)


def count_steps(file: Path) -> None:
    """Write a byte to a file for every step of a fine-tune; it outlives the process."""
    from gearnn import finetune

    original = finetune._step
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def counting(*args: Any, **kwargs: Any) -> float:
        os.write(descriptor, b".")
        return original(*args, **kwargs)

    finetune._step = counting


def run(request: dict[str, Any], log: Path) -> int:
    """One run in this process; its exit status."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    from flows.adapt import adapt
    from gearnn.plan import Plan

    count_steps(Path(request["plan"]).with_suffix(".steps"))
    for target, at_call, what in request["events"]:
        interfere(target, at_call, what)
    try:
        adapt(Plan.load(request["plan"]))
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    """Serve requests."""
    for name in ("flows.adapt", "mlflow", "boto3", "prefect.server.api.server"):
        importlib.import_module(name)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        steps = Path(request["plan"]).with_suffix(".steps")
        before = steps.stat().st_size if steps.exists() else 0
        child = os.fork()
        if child == 0:
            os._exit(run(request, Path(request["plan"]).with_suffix(".log")))
        _, status = os.waitpid(child, 0)
        after = steps.stat().st_size if steps.exists() else 0
        print(json.dumps([os.waitstatus_to_exitcode(status), after - before]), flush=True)


if __name__ == "__main__":
    main()
