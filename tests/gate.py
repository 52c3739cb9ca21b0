"""The one gate: people, pre-commit and CI run the same steps. `make test` calls it; it stops at the first failure.

Steps: ruff (lint, format), mypy, import-linter, pytest. `python tests/gate.py lint` leaves pytest out.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

BIN = Path(sys.executable).parent
STEPS = [
    ("lint", [BIN / "ruff", "check", "."]),
    ("format", [BIN / "ruff", "format", "--check", "."]),
    ("types", [BIN / "mypy"]),
    ("layers", [BIN / "lint-imports", "--no-cache"]),
    # Two at a time: most tests of the command wait for one process to start. A file's tests share what they trained.
    ("tests", [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile"]),
]


def main() -> int:
    """Run the steps in order; return the exit code of the first that fails."""
    steps = STEPS[:-1] if sys.argv[1:] == ["lint"] else STEPS
    for name, command in steps:
        print(
            f"\n== {name}: {' '.join(Path(str(word)).name if word == command[0] else str(word) for word in command)}",
            flush=True,
        )
        started = time.perf_counter()
        # Two tests with a thread each: four threads on two cores wait for one another more than they work.
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        code = subprocess.run(
            [str(word) for word in command], cwd=Path(__file__).parent.parent, env=environment, check=False
        ).returncode
        print(
            f"== {name}: {'ok' if code == 0 else f'failed ({code})'} in {time.perf_counter() - started:.0f} s",
            flush=True,
        )
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
