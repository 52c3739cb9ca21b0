"""The gate: people, pre-commit and CI run the same steps.

`make check` runs ruff (lint and format), mypy, import-linter, and compares the tables of docs/performance.md with their
results. `make test` then runs all tests but the slow ones (tests/plugins/slow_tests.py), and `make test-slow` runs
these. `python tests/gate.py write-slow` runs all, and lists the slow ones anew. The first failure ends the gate.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
CHECKS = [
    ("lint", [BIN / "ruff", "check", "."]),
    ("format", [BIN / "ruff", "format", "--check", "."]),
    ("types", [BIN / "mypy"]),
    ("layers", [BIN / "lint-imports", "--no-cache"]),
    ("results", [sys.executable, "benchmarks/render.py"]),
]
# Two workers: most tests of the command wait for one process to start. tests/conftest.py divides the tests.
PYTEST = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadscope", "--no-loadscope-reorder"]
STEPS = {
    "check": CHECKS,
    "test": [*CHECKS, ("tests", [*PYTEST, "--quick"])],
    "slow": [("slow tests", [*PYTEST, "--slow"])],
    "write-slow": [*CHECKS, ("all tests", [*PYTEST, "--write-slow"])],
}


def main() -> int:
    """Run the steps in order; return the exit code of the first that fails."""
    wanted = "".join(sys.argv[1:]) or "test"
    if wanted not in STEPS:
        print(f"gate.py takes one of {', '.join(STEPS)}, or nothing for test, and got {wanted!r}", file=sys.stderr)
        return 2
    # One thread for each of the two workers: four threads on two cores wait for one another more than they work.
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    # Tests start many processes, each of which would compile the package again, for more than a second.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    for name, command in STEPS[wanted]:
        words = " ".join(Path(str(word)).name if word == command[0] else str(word) for word in command)
        print(f"\n== {name}: {words}", flush=True)
        started = time.perf_counter()
        code = subprocess.run([str(word) for word in command], cwd=ROOT, env=environment, check=False).returncode
        result = "ok" if code == 0 else f"failed ({code})"
        print(f"== {name}: {result} in {time.perf_counter() - started:.0f} s", flush=True)
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
