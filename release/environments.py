"""Fresh environments with the wheel: the oldest Python with the oldest dependencies, the newest with the newest.

uv makes them, since pip has no way to choose the oldest versions. Each runs `smoke.py` in an empty folder.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from failure import ReleaseError

_SMOKE = Path(__file__).parent / "smoke.py"
_WORDS = {"lowest-direct": "oldest", "highest": "newest"}


@dataclass(frozen=True)
class Checked:
    """An environment in which the smoke test passed: its Python, also in full, and what dependencies it had."""

    python: str
    exact: str
    resolution: str
    versions: dict[str, str]


def supported_pythons(root: Path) -> tuple[str, str]:
    """The oldest Python, of `requires-python`, and the newest, of the matrix of the gate."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    oldest = re.fullmatch(r">=(3\.\d+)", project["requires-python"])
    matrix = re.search(r"^\s*python: \[(.*)\]$", (root / ".github/workflows/gate.yml").read_text("utf-8"), re.MULTILINE)
    if not oldest or not matrix:
        raise ReleaseError("requires-python in pyproject.toml, or the matrix of the gate, names no Python.")
    newest = max(re.findall(r"3\.(\d+)", matrix[1]), key=int)
    return oldest[1], f"3.{newest}"


def check_in(python: str, resolution: str, wheel: Path, extras: str) -> Checked:
    """Install the wheel into a fresh environment and run the smoke test there.

    `python` is a version or the path of an interpreter. Raises `ReleaseError` if there is no such Python, the packages
    cannot be installed, or the test fails.
    """
    print(f"\nPython {python} with the {_WORDS[resolution]} dependencies", flush=True)
    with tempfile.TemporaryDirectory(prefix="regraft-check-") as folder:
        environment, work = Path(folder, "environment"), Path(folder, "work")
        work.mkdir()
        done = _uv("venv", "--no-project", "--python", python, environment)
        if done.returncode:
            raise ReleaseError(
                f"Python {python} cannot be had here, so the release is not checked with it: {done.stderr.strip()}\n"
                "Install it, or name two others, the oldest and the newest, as versions or paths: "
                "make release PYTHONS='3.11 3.13'. The notes then say that they were others."
            )
        own = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        wanted = f"{wheel.resolve()}[{extras}]" if extras else str(wheel.resolve())
        done = _uv("pip", "install", "--python", own, "--resolution", resolution, wanted)
        if done.returncode:
            raise ReleaseError(f"The {_WORDS[resolution]} dependencies cannot be installed:\n{done.stderr.strip()}")
        # Isolated: neither the working tree nor packages of the user are found.
        done = subprocess.run(
            [own, "-I", _SMOKE, extras], cwd=work, env={**os.environ, "REGRAFT_CACHE": str(work / "cache")},
            stdout=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise ReleaseError(f"The smoke test failed with Python {python} and the {_WORDS[resolution]} dependencies.")
        lines = (line.split("==") for line in done.stdout.splitlines() if "==" in line)
        versions = {name: version for name, version in lines}
    exact = versions.pop("python")
    print(f"passed: Python {exact}, " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    return Checked(".".join(exact.split(".")[:2]), exact, resolution, versions)


def describe(checked: Sequence[Checked], left_out: Sequence[str]) -> str:
    """Sentences on what was checked, and on the supported Pythons at both ends that were not."""
    lines = [
        f"- Python {one.exact} with the {_WORDS[one.resolution]} dependencies: "
        + ", ".join(f"{name} {version}" for name, version in one.versions.items())
        for one in checked
    ]
    lines += [f"- **Not checked**: Python {python}, which was not named in PYTHONS." for python in left_out]
    return "\n".join(lines)


def _uv(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "uv", *map(str, words)], capture_output=True, text=True, check=False)
