"""Build and check a release: `make release`, or `python release/release.py`.

From the last commit into `dist/`: sdist and wheel, built twice and the same bits; `sbom.cdx.json`, a CycloneDX bill of
materials; `SHA256SUMS`; and `NOTES.md`, the changelog of the version and what was checked. Nothing is uploaded. The
first step that fails ends it with a sentence, and `dist/` is then as it was. Nothing is left out silently: a Python
that is not there is an error.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bill import write_bill
from builds import build_twice, commit_time, git, sha256sums, version_of
from environments import check, describe, ends_of, resolve, supported_pythons
from failure import ReleaseError
from notes import notes_of

ROOT = Path(__file__).parent.parent


def main() -> int:
    """Run all steps; return the exit code."""
    parser = argparse.ArgumentParser(description="Build and check a release of the last commit, into dist/.")
    parser.add_argument("--pythons", default="", help="oldest and newest Python, as versions or paths, with a space")
    pythons = parser.parse_args().pythons.split()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # which removes gigabytes of environments, too
    try:
        release(ROOT, pythons)
    except (ReleaseError, OSError) as error:
        print(f"Error: {error}\nThere is no release; dist/ is as it was.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted. There is no release; dist/ is as it was.", file=sys.stderr)
        return 130
    return 0


def release(root: Path, pythons: Sequence[str]) -> None:
    """Build the last commit of `root` and check it; then, and only then, replace `root/dist`. Raises `ReleaseError`."""
    if changed := git(root, "status", "--porcelain").decode().strip():
        raise ReleaseError(f"The working tree has changes that no commit has:\n{changed}\nCommit them first.")
    version, commit = version_of(root), git(root, "rev-parse", "HEAD").decode().strip()
    tag = f"v{version}"
    if git(root, "tag", "--list", tag) and (tagged := git(root, "rev-list", "-1", tag).decode().strip()) != commit:
        raise ReleaseError(f"{tag} is the tag of another commit, {tagged}. Raise the version.")
    notes = notes_of((root / "CHANGELOG.md").read_text(encoding="utf-8"), version)
    supported = supported_pythons(root)
    ends = ends_of(pythons or supported)
    print(f"regraft {version}, commit {commit}")
    (root / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root / "build", prefix="release-") as folder:
        new = Path(folder, "dist")
        new.mkdir()
        files = build_twice(root, commit, new)
        print(f"Built twice, the same bits: {', '.join(file.name for file in files)}")
        write_bill(root, new / "sbom.cdx.json", files, commit_time(root, commit))
        print("Bill of materials: sbom.cdx.json")
        twine_check(files)
        wheel = next(file for file in files if file.suffix == ".whl")
        for end in ends:
            resolve(end, wheel)
        text = describe([check(end, wheel) for end in ends], supported)
        (new / "NOTES.md").write_text(f"# regraft {version}\n\n{notes}\n\n## Checked\n\n{text}\n", encoding="utf-8")
        sums = sha256sums([*files, new / "sbom.cdx.json"])
        (new / "SHA256SUMS").write_text(sums, encoding="utf-8")
        publish(new, root / "dist")
    print(f"\n{text}\n\n{sums}\nEverything is in {root / 'dist'}.")


def twine_check(files: Sequence[Path]) -> None:
    """Raise `ReleaseError` if PyPI would not take these files."""
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, files)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise ReleaseError(f"PyPI would not take the files:\n{done.stdout.strip()}")


def publish(new: Path, out: Path) -> None:
    """Replace the folder `out`, if there is one, by the complete `new`, on the same file system."""
    if out.exists():
        out.rename(new.with_name("old"))
    new.rename(out)


if __name__ == "__main__":
    sys.exit(main())
