"""Prints the commit that the flow run of this process is to run at: its parameter ``commit``, or nothing.

For ``infra/checkout.sh``, before there is any code but a Python; so it needs the standard library only.
"""

import base64
import json
import os
import sys
import urllib.request


def commit_of_run() -> str:
    """Ask the Prefect API for the parameters of the run that ``PREFECT__FLOW_RUN_ID`` names.

    Raises:
        OSError: the API does not answer.
    """
    api, run = os.environ.get("PREFECT_API_URL"), os.environ.get("PREFECT__FLOW_RUN_ID")
    if not api or not run:
        return ""
    request = urllib.request.Request(f"{api}/flow_runs/{run}")
    if key := os.environ.get("PREFECT_API_KEY"):
        request.add_header("Authorization", f"Bearer {key}")
    elif login := os.environ.get("PREFECT_API_AUTH_STRING"):
        request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(json.load(answer)["parameters"].get("commit") or "")


if __name__ == "__main__":
    sys.stdout.write(commit_of_run())
