"""How far a fine-tune is, in Prefect's UI."""

import re
import time
from collections.abc import Callable
from typing import cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import TaskRunContext

from gearnn.finetune import Progress as Position
from gearnn.plan import Plan

_SECONDS_BETWEEN_UPDATES = 10.0


def publisher(what: str) -> Callable[[Position], str]:
    """A callback that shows one fine-tune as a progress artifact of the running task; nothing outside of a task.

    A server that does not answer holds up no training: the artifact is left as it is, and tried again later.

    Args:
        what: such as ``full fine-tune jpeg:quality=10``; the artifact's key is made of it.

    Returns:
        A function of the position that gives what went wrong for the first time, or nothing.
    """
    context = TaskRunContext.get()
    if context is None:
        return lambda position: ""
    plan = context.parameters.get("plan")
    of = f"{plan.registered_base} " if isinstance(plan, Plan) else ""
    key = re.sub(r"[^a-z0-9]+", "-", f"{of}{what}".lower()).strip("-")
    artifact: UUID | None = None
    last, has_failed = float("-inf"), False

    def publish(position: Position) -> str:
        nonlocal artifact, last, has_failed
        is_last = position.step == position.num_steps
        if not is_last and time.monotonic() - last < _SECONDS_BETWEEN_UPDATES:
            return ""
        last = time.monotonic()
        progress = 100.0 * position.step / position.num_steps
        text = f"{what}: epoch {position.epoch} of {position.num_epochs}, loss {position.loss:.4f}"
        try:
            if artifact is None:
                artifact = cast(UUID, create_progress_artifact(progress, key=key, description=text))
            else:
                update_progress_artifact(artifact, progress, description=text)
        except Exception as error:  # of the network, in whatever form the client gives it
            is_first, has_failed = not has_failed, True
            return f"Prefect's server does not take the progress: {' '.join(str(error).split())[:200]}" * is_first
        return ""

    return publish
