"""`make test-anywhere`: run the tests once for every kind of arithmetic that this machine can do.

``python -m tests.arithmetic [--only NAME ...] [arguments of pytest]``. A test that fails in one row and passes
in another hangs on what a training happens to reach, or on what ran before it.
"""

import argparse
import os
import subprocess
import sys

from tests.conftest import REPOSITORY

VARIANTS: dict[str, dict[str, str]] = {
    "fp32": {"GEARNN_TEST_PRECISION": "fp32"},
    "bf16": {"GEARNN_TEST_PRECISION": "bf16"},
    "no-amx": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"},
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "GEARNN_TEST_PRECISION": "fp32"},
    "one-thread": {"OMP_NUM_THREADS": "1"},
    "two-threads": {"OMP_NUM_THREADS": "2"},
    "seed": {"GEARNN_TEST_SEED": "1"},
    "order": {"GEARNN_TEST_ORDER": "1"},
}
"""What each run changes; a processor without these instructions ignores the limit and computes as it can."""


def main() -> int:
    """Run, and say which arithmetic the tests do not pass under."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=VARIANTS, help="this one; may be repeated")
    chosen, options = parser.parse_known_args()
    failed = []
    for name in chosen.only or VARIANTS:
        changes = " ".join(f"{variable}={value}" for variable, value in VARIANTS[name].items())
        print(f"{name}: {changes} pytest {' '.join(options)}", flush=True)
        command = [sys.executable, "-m", "pytest", "--quiet", "--numprocesses=auto", *options]
        if subprocess.run(command, cwd=REPOSITORY, env=os.environ | VARIANTS[name]).returncode != 0:
            failed.append(name)
    print(f"failed: {', '.join(failed) or 'none'}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
