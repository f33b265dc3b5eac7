"""Notify people of a run that failed, through a notification block of Prefect."""

import os
from typing import Any

from prefect.blocks.core import Block
from prefect.logging import get_logger
from prefect.utilities.urls import url_for

VARIABLE = "GEARNN_NOTIFY"


def tell_people(flow: Any, flow_run: Any, state: Any) -> None:
    """A hook for flows that fail or crash: sends one message, through the block that ``GEARNN_NOTIFY`` names.

    The block is one of Prefect's, such as ``slack-webhook/team`` or ``custom-webhook/team``. Flows within a
    flow say nothing; the outer one does. A message that cannot be sent is logged, and changes nothing.
    """
    slug = os.environ.get(VARIABLE)
    if not slug or flow_run.parent_task_run_id is not None:
        return
    where = f"\n{url_for('flow-run', obj_id=flow_run.id) or ''}"
    try:
        block: Any = Block.load(slug)
        block.notify(
            f"{flow_run.name}: {state.name}: {state.message}{where}", subject=f"GearNN: {flow_run.name} failed"
        )
    except Exception as error:  # of a block that is missing or a service that is away
        reason = " ".join(str(error).split())[:300]
        get_logger("gearnn").error("%s=%s: the message was not sent: %s", VARIABLE, slug, reason)


HOOKS: dict[str, Any] = {"on_failure": [tell_people], "on_crashed": [tell_people]}
"""For the decorator of a flow."""
