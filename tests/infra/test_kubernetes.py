"""The base job template of a Kubernetes work pool."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from infra.services import Services
from tests.conftest import REPOSITORY
from tests.shared.compose import SERVICES

FILE = REPOSITORY / "infra" / "kubernetes-base-job-template.json"
TEMPLATE = json.loads(FILE.read_text())


def rendered(**values: Any) -> dict[str, Any]:
    """The Job that Prefect would ask Kubernetes for."""
    from prefect.utilities.templating import apply_values

    properties = TEMPLATE["variables"]["properties"]
    defaults = {name: variable["default"] for name, variable in properties.items() if "default" in variable}
    given = {**defaults, **values}
    Draft202012Validator(TEMPLATE["variables"]).validate(given)
    return apply_values(TEMPLATE["job_configuration"]["job_manifest"], given)


def test_a_job_gets_one_gpu_and_is_not_repeated_by_kubernetes() -> None:
    job = rendered(image="gearnn-worker:1", name="a-run", command="prefect flow-run execute")
    assert (job["apiVersion"], job["kind"], job["spec"]["backoffLimit"]) == ("batch/v1", "Job", 0)
    assert job["spec"]["ttlSecondsAfterFinished"] == 86400
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "gearnn-worker:1"
    assert container["resources"]["limits"] == {"memory": "16Gi", "nvidia.com/gpu": 1}
    assert pod["restartPolicy"] == "Never"
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert "{{" not in json.dumps({**job, "metadata": {}})
    assert "serviceAccountName" not in pod


def test_what_a_deployment_asks_for_reaches_the_job() -> None:
    job = rendered(
        image="gearnn-worker:1",
        namespace="vision",
        gpus=2,
        cpu="8",
        memory="32Gi",
        env={"GEARNN_HOME": "/var/lib/gearnn", "OMP_NUM_THREADS": "4"},
        service_account_name="trainer",
        node_selector={"nvidia.com/gpu.present": "true"},
        tolerations=[],
        credentials_secret="team",
        home_claim="disk",
        finished_job_ttl=60,
    )
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"] == {
        "requests": {"cpu": "8", "memory": "32Gi"},
        "limits": {"memory": "32Gi", "nvidia.com/gpu": 2},
    }
    assert container["envFrom"] == [{"secretRef": {"name": "team"}}]
    assert container["env"]["OMP_NUM_THREADS"] == "4"
    assert (job["metadata"]["namespace"], job["spec"]["ttlSecondsAfterFinished"]) == ("vision", 60)
    assert (pod["serviceAccountName"], pod["nodeSelector"]) == ("trainer", {"nvidia.com/gpu.present": "true"})
    assert pod["volumes"][0] == {"name": "home", "persistentVolumeClaim": {"claimName": "disk"}}


def test_every_mount_has_its_volume_and_gearnn_home_is_one() -> None:
    pod = TEMPLATE["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
    home = TEMPLATE["variables"]["properties"]["env"]["default"]["GEARNN_HOME"]
    assert mounts["home"] == home == SERVICES["worker"]["environment"]["GEARNN_HOME"]


def test_every_placeholder_is_a_variable_and_every_variable_is_used() -> None:
    import re

    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(TEMPLATE["job_configuration"])))
    assert used == set(TEMPLATE["variables"]["properties"])


@pytest.mark.service
def test_prefect_accepts_the_template_for_a_work_pool(services: Services, tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    environment |= {**services.environment(), "PREFECT_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "prefect", "--no-prompt", "work-pool"]
    create = ["create", "gpu-k8s", "--type", "kubernetes", "--base-job-template", str(FILE)]
    made = subprocess.run([*command, *create], env=environment, capture_output=True, text=True, timeout=120)
    assert made.returncode == 0, made.stdout + made.stderr
    shown = subprocess.run(
        [*command, "inspect", "gpu-k8s", "--output", "json"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    pool = json.loads(shown.stdout)
    assert pool["type"] == "kubernetes"
    assert pool["base_job_template"] == TEMPLATE
