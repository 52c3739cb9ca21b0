"""Write constraints.txt from the environment that this runs in: names and versions alone.

    python tests/constraints.py

Packages that only one platform has (the CUDA libraries of PyTorch, Triton) are left out, and so are local version
labels such as `+cpu`, so that the file serves every platform.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FILE = Path(__file__).parent.parent / "constraints.txt"
_PLATFORM_ONLY = ("nvidia-", "cuda-", "triton", "pip=", "setuptools=")


def main() -> None:
    """Renew the file below its comment."""
    freeze = [sys.executable, "-m", "pip", "freeze", "--exclude-editable"]
    lines = subprocess.run(freeze, capture_output=True, text=True, check=True).stdout.splitlines()
    pins = [line.partition("+")[0] for line in lines if "==" in line and not line.lower().startswith(_PLATFORM_ONLY)]
    comment = [line for line in FILE.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    FILE.write_text("\n".join([*comment, *pins]) + "\n", encoding="utf-8")
    print(f"{len(pins)} versions in {FILE.name}")


if __name__ == "__main__":
    main()
