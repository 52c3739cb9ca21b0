"""Sdist and wheel of a commit, built twice in folders, at times and in environments that differ, and compared."""

from __future__ import annotations

import ast
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

from failure import ReleaseError

#: What must not change the bits, in the first and in the second build.
_DIFFERENCES = (
    {"TZ": "UTC", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "1", "umask": 0o022},
    {"TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONHASHSEED": "2", "umask": 0o077},
)


def version_of(root: Path) -> str:
    """The version in `pyproject.toml`. Raises `ReleaseError` if `regraft.__version__` is another."""
    version = str(tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])
    source = ast.parse((root / "src/regraft/__init__.py").read_text(encoding="utf-8"))
    of_module = next(
        ast.literal_eval(line.value)
        for line in source.body
        if isinstance(line, ast.Assign)
        and isinstance(line.targets[0], ast.Name)
        and line.targets[0].id == "__version__"
    )
    if of_module != version:
        raise ReleaseError(f"pyproject.toml has version {version}, and regraft.__version__ is {of_module}.")
    return version


def git(root: Path, *words: str) -> bytes:
    """What git prints in this folder. Raises `ReleaseError` if it fails, or there is no git."""
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, check=False)
    except FileNotFoundError as error:
        raise ReleaseError("git is not installed, and a release is built from a commit.") from error
    if done.returncode:
        raise ReleaseError(f"git {' '.join(words)} failed: {done.stderr.decode().strip()}")
    return done.stdout


def commit_time(root: Path, commit: str) -> int:
    """The time of a commit, in seconds since 1970."""
    return int(git(root, "show", "-s", "--format=%ct", commit))


def build_twice(root: Path, commit: str, out: Path) -> list[Path]:
    """Build sdist and wheel of a commit into `out`; returns the files.

    Raises `ReleaseError` if a build fails, or the second one gives other bits.
    """
    with tempfile.TemporaryDirectory(prefix="regraft-release-") as folder:
        places = [Path(folder, name, "regraft") for name in ("first", "a second place")]
        builds = []
        for place, differences in zip(places, _DIFFERENCES, strict=True):
            unpack(root, commit, place, int(differences["umask"]))
            builds.append(_build(place, commit_time(root, commit), differences))
        first, second = ({file.name: digest(file) for file in build.iterdir()} for build in builds)
        if other := sorted(name for name in first | second if first.get(name) != second.get(name)):
            raise ReleaseError(f"A second build of the same commit has other bits: {', '.join(other)}.")
        return [Path(shutil.copy2(builds[0] / name, out / name)) for name in sorted(first)]


def unpack(root: Path, commit: str, target: Path, umask: int) -> None:
    """Write the files of a commit, with mode bits as under this umask, and the time that it is now."""
    target.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(git(root, "archive", commit))) as archive:
        archive.extractall(target, filter="data")
    now = time.time()
    for path in target.rglob("*"):
        path.chmod(path.stat().st_mode & ~umask)
        os.utime(path, (now, now))


def _build(place: Path, seconds: int, differences: dict[str, str | int]) -> Path:
    out = place.parent / "dist"
    own = {name: str(value) for name, value in differences.items() if name != "umask"}
    done = subprocess.run(
        # Not isolated: the version of hatchling, on which the bits depend, is that of constraints.txt.
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(place)],
        env={**os.environ, "SOURCE_DATE_EPOCH": str(seconds), **own}, umask=int(differences["umask"]),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise ReleaseError(f"The build failed:\n{done.stdout}{done.stderr}")
    return out


def digest(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def sha256sums(files: Sequence[Path]) -> str:
    """Lines that `sha256sum --check` reads."""
    return "".join(f"{digest(file)}  {file.name}\n" for file in files)
