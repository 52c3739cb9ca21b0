"""Build and check a release: `make release`, or `python release/release.py`.

From the last commit into `dist/`: sdist and wheel, built twice and the same bits; `sbom.cdx.json`, a CycloneDX bill of
materials; `SHA256SUMS`; and `NOTES.md`, the changelog of the version and what was checked. Nothing is uploaded. The
first step that fails ends it with a sentence, and nothing is left out silently: a Python that is not there is an error.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from bill import write_bill
from builds import build_twice, commit_time, sha256sums, version_of
from environments import check_in, describe, supported_pythons
from failure import ReleaseError
from notes import notes_of

ROOT = Path(__file__).parent.parent


def main() -> int:
    """Run all steps; return the exit code."""
    parser = argparse.ArgumentParser(description="Build and check a release of the last commit.")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder for the release; it is emptied first")
    parser.add_argument("--pythons", default="", help="oldest and newest Python, as versions or paths, with a space")
    parser.add_argument("--extras", default="onnx", help="extras that are installed in the checked environments")
    given = parser.parse_args()
    try:
        release(given.out, given.pythons.split(), given.extras)
    except ReleaseError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


def release(out: Path, pythons: list[str], extras: str) -> None:
    """Build into `out` and check; raises `ReleaseError`."""
    if changed := _git("status", "--porcelain"):
        raise ReleaseError(f"The working tree has changes that no commit has:\n{changed}\nCommit them first.")
    version, commit = version_of(ROOT), _git("rev-parse", "HEAD")
    notes = notes_of((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version)
    oldest, newest = supported_pythons(ROOT)
    chosen = pythons or [oldest, newest]
    if len(chosen) != 2:
        raise ReleaseError(f"PYTHONS={' '.join(chosen)}: expected two, the oldest and the newest.")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    print(f"regraft {version}, commit {commit}")
    files = build_twice(ROOT, commit, out)
    print(f"Built twice, the same bits: {', '.join(file.name for file in files)}")
    write_bill(ROOT, out / "sbom.cdx.json", files, commit_time(ROOT, commit))
    print("Bill of materials: sbom.cdx.json")
    _run([sys.executable, "-m", "twine", "check", "--strict", *map(str, files)], "twine refuses the files")
    wheel = next(file for file in files if file.suffix == ".whl")
    checked = [
        check_in(python, resolution, wheel, extras)
        for python, resolution in zip(chosen, ("lowest-direct", "highest"), strict=True)
    ]
    text = describe(checked, [python for python in (oldest, newest) if python not in {one.python for one in checked}])
    (out / "NOTES.md").write_text(f"# regraft {version}\n\n{notes}\n\n## Checked\n\n{text}\n", encoding="utf-8")
    sums = sha256sums([*files, out / "sbom.cdx.json"])
    (out / "SHA256SUMS").write_text(sums, encoding="utf-8")
    print(f"\n{text}\n\n{sums}\nEverything is in {out}.")


def _git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReleaseError(f"git {' '.join(words)} failed: {done.stderr.strip()}")
    return done.stdout.strip()


def _run(command: list[str], failed: str) -> None:
    done = subprocess.run(command, check=False)
    if done.returncode:
        raise ReleaseError(f"{failed}: {' '.join(command)}")


if __name__ == "__main__":
    sys.exit(main())
