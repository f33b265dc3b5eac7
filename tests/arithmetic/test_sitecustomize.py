import os
import subprocess
import sys

import pytest

from tests.conftest import PYTHONPATH

PROGRAM = """
import torch
from gearnn.machine.compute import Compute
torch.manual_seed(1)
print(Compute.resolve("cpu").precision, Compute.resolve("cpu", "fp32").precision, torch.initial_seed())
"""


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_process_that_a_test_starts_computes_as_the_environment_says(precision: str) -> None:
    given = {"PYTHONPATH": PYTHONPATH, "GEARNN_TEST_PRECISION": precision, "GEARNN_TEST_SEED": "4"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=os.environ | given, capture_output=True, text=True)
    assert done.stdout.split() == [precision, "fp32", "5"], done.stderr
