"""Fresh environments with the wheel: the oldest Python with the oldest dependencies, the newest with the newest.

uv makes them, since pip has no way to choose the oldest versions. `smoke.py` runs in each, in a folder of its own.
The oldest are checked in one environment for the package alone and one for each extra, because extras raise each
other's lower bounds. The newest are checked in one for the package alone and one with all extras.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email import message_from_bytes
from pathlib import Path
from zipfile import ZipFile

from failure import ReleaseError
from packaging.requirements import Requirement
from smoke import EXTRAS

_SMOKE = Path(__file__).parent / "smoke.py"
#: An extra that another one is checked with: TensorFlow writes the models that LiteRT runs.
_WITH = {"litert": ["tensorflow"]}


@dataclass(frozen=True)
class End:
    """The oldest or the newest that is supported: a Python, as a version or a path, and how uv chooses dependencies."""

    name: str
    python: str
    resolution: str

    def groups(self) -> list[list[str]]:
        """The extras that are checked in the same environment."""
        return [[], *([name] for name in EXTRAS)] if self.name == "oldest" else [[], list(EXTRAS)]


@dataclass(frozen=True)
class Checked:
    """An end whose smoke tests passed: its Python, in full, and the versions of what is required without extras."""

    end: End
    python: str
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


def ends_of(pythons: Sequence[str]) -> tuple[End, End]:
    """Both ends. Raises `ReleaseError` if these are not two Pythons that can be had here, the older one first."""
    if len(pythons) != 2:
        raise ReleaseError(f"PYTHONS={' '.join(pythons)}: expected two, the oldest and the newest.")
    oldest, newest = End("oldest", pythons[0], "lowest-direct"), End("newest", pythons[1], "highest")
    found = []
    for end in (oldest, newest):
        with environment_of(end) as python:
            found.append(exact_version(python))
    if found[0][:2] > found[1][:2]:
        raise ReleaseError(f"PYTHONS={' '.join(pythons)}: expected the oldest first and then the newest.")
    return oldest, newest


@contextmanager
def environment_of(end: End) -> Iterator[Path]:
    """Make an empty environment and yield its Python. Raises `ReleaseError` if there is no such Python."""
    with tempfile.TemporaryDirectory(prefix="regraft-environment-") as folder:
        done = _uv("venv", "--no-project", "--python", end.python, Path(folder, "environment"))
        if done.returncode:
            raise ReleaseError(
                f"Python {end.python} cannot be had here, so the release is not checked with it: {done.stderr.strip()}"
                "\nInstall it, or name two others, the oldest and the newest, as versions or paths: "
                "make release PYTHONS='3.11 3.13'. The notes then say that they were others."
            )
        yield Path(folder, "environment", "Scripts/python.exe" if os.name == "nt" else "bin/python")


def exact_version(python: Path) -> tuple[int, ...]:
    """The version of an interpreter."""
    command = [python, "-I", "-c", "import platform; print(platform.python_version())"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])


def resolve(end: End, wheel: Path) -> None:
    """Raise `ReleaseError` if the packages of an environment cannot be installed together; downloads none of them."""
    with environment_of(end) as python:
        for extras in end.groups():
            install(end, python, wheel, extras, "--dry-run")


def check(end: End, wheel: Path) -> Checked:
    """Install the wheel into fresh environments, without and with extras, and run the smoke test in each.

    Raises `ReleaseError` if packages cannot be installed or a test fails.
    """
    print(f"\nThe {end.name} dependencies on Python {end.python}", flush=True)
    versions: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="regraft-check-") as work:
        for extras in end.groups():
            print(f"{wheel.name}[{','.join(extras)}]" if extras else wheel.name, flush=True)
            with environment_of(end) as python:
                install(end, python, wheel, extras)
                versions |= smoke(end, python, Path(work), extras)
    return Checked(end, versions.pop("python"), versions)


def install(end: End, python: Path, wheel: Path, extras: Sequence[str], *options: str) -> None:
    """Install the wheel with extras. Raises `ReleaseError` if packages cannot be installed together."""
    names = [*extras, *(name for extra in extras for name in _WITH.get(extra, []))]
    # uv takes the lowest versions of what it is asked for itself, and the newest of what that requires.
    wanted = requirements_of(wheel, names)
    if end.name == "oldest":  # a lower bound that others raise would never be used, so it must be installed itself
        wanted += [text.replace(">=", "==") for text in _own_requirements(wheel, extras)]
    choice = ["--python", python, "--resolution", end.resolution, *options]
    done = _uv("pip", "install", *choice, wheel.resolve(), *wanted)
    if done.returncode:
        raise ReleaseError(
            f"The {end.name} dependencies with {_words(extras)} cannot be installed on Python {end.python}:\n"
            f"{done.stderr.strip()}"
        )


def _own_requirements(wheel: Path, extras: Sequence[str]) -> list[str]:
    """What these extras require, or the wheel without extras."""
    others = requirements_of(wheel, []) if extras else []
    return [text for text in requirements_of(wheel, extras) if text not in others]


def requirements_of(wheel: Path, extras: Sequence[str]) -> list[str]:
    """What a wheel requires here, with these extras, in its order."""
    with ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(archive.read(name))
    found = []
    for one in map(Requirement, metadata.get_all("Requires-Dist", [])):
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ["", *extras]):
            one.marker = None
            found.append(str(one))
    return found


def smoke(end: End, python: Path, work: Path, extras: Sequence[str]) -> dict[str, str]:
    """Run the smoke test in an environment; returns the versions that it prints. Raises `ReleaseError` if it fails."""
    # Isolated: neither the working tree nor packages of the user are found.
    done = subprocess.run(
        [python, "-I", _SMOKE, *extras], cwd=work, env={**os.environ, "REGRAFT_CACHE": str(work / "cache")},
        stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise ReleaseError(
            f"The smoke test failed with Python {end.python}, the {end.name} dependencies and {_words(extras)}. "
            "If a package is too old, raise its lower bound in pyproject.toml."
        )
    return dict(line.split("==", 1) for line in done.stdout.splitlines() if "==" in line)


def describe(checked: Sequence[Checked], supported: Sequence[str]) -> str:
    """A list of what was checked, and of the supported Pythons at both ends that were not."""
    lines = [
        f"- Python {one.python} with the {one.end.name} dependencies: "
        + ", ".join(f"{name} {version}" for name, version in one.versions.items())
        + f"; and those of the extras {', '.join(EXTRAS)}."
        for one in checked
    ]
    minors = {one.python.rpartition(".")[0] for one in checked}
    lines += [
        f"- **Not checked**: Python {python}, which was not named in PYTHONS."
        for python in supported
        if python not in minors
    ]
    return "\n".join(lines)


def _words(extras: Sequence[str]) -> str:
    return f"the extras {', '.join(extras)}" if extras else "no extras"


def _uv(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "uv", *map(str, words)], capture_output=True, text=True, check=False)
