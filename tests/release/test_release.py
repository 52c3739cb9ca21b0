"""A release is reproducible, says what it is made of and what was checked, and leaves nothing out silently."""

from __future__ import annotations

import json
import subprocess
import time
import tomllib
from pathlib import Path

import builds
import environments
import pytest
from bill import dependencies, pins_of, write_bill
from environments import Checked, check_in, describe, supported_pythons
from failure import ReleaseError
from notes import notes_of
from smoke import draw

ROOT = Path(__file__).parent.parent.parent
CHANGELOG = "# Changelog\n\n## Unreleased\n\n## 0.2.0 - 2026-11-30\n\n- New.\n\n### Added\n\n- A thing.\n\n## 0.1.0\n"


def test_the_notes_are_the_section_of_the_version() -> None:
    assert notes_of(CHANGELOG, "0.2.0") == "- New.\n\n### Added\n\n- A thing."
    for version, message in (("0.1.0", "says nothing of 0.1.0"), ("0.2", "no section 0.2"), ("0.3.0", "no section")):
        with pytest.raises(ReleaseError, match=message):
            notes_of(CHANGELOG, version)


def test_the_version_stands_in_two_places_that_agree(tmp_path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert builds.version_of(ROOT) == project["version"]
    (tmp_path / "src/regraft").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "2.0"\n')
    (tmp_path / "src/regraft/__init__.py").write_text('__version__ = "1.0"\n')
    with pytest.raises(ReleaseError, match=r"version 2\.0, and regraft\.__version__ is 1\.0"):
        builds.version_of(tmp_path)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A commit with one file."""
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for words in (("init", "-q"), ("add", "a.txt"), (*identity, "commit", "-q", "--no-gpg-sign", "-m", "a")):
        subprocess.run(["git", "-C", folder, *words], check=True, capture_output=True)
    return folder


def test_builds_that_depend_on_their_place_are_refused(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(place: Path, seconds: int, differences: dict[str, str | int]) -> Path:
        (place.parent / "dist").mkdir()
        (place.parent / "dist/x.whl").write_bytes((place / "a.txt").read_bytes() + str(seconds).encode())
        (place.parent / "dist/x.tar.gz").write_text(str(differences["TZ"]) if depends else "same")
        return place.parent / "dist"

    monkeypatch.setattr(builds, "_build", build)
    out, depends = tmp_path / "out", False
    out.mkdir()
    assert [file.name for file in builds.build_twice(repository, "HEAD", out)] == ["x.tar.gz", "x.whl"]
    assert (out / "x.whl").read_text() == f"a{builds.commit_time(repository, 'HEAD')}"
    depends = True
    with pytest.raises(ReleaseError, match=r"has other bits: x\.tar\.gz\.$"):
        builds.build_twice(repository, "HEAD", out)


def test_a_build_has_the_files_of_the_commit_alone(repository: Path, tmp_path: Path) -> None:
    (repository / "untracked").touch()
    (repository / "a.txt").write_text("changed")
    before = time.time() - 1
    builds.unpack(repository, "HEAD", tmp_path / "place", 0o077)
    (file,) = (tmp_path / "place").iterdir()
    assert (file.name, file.read_text(), file.stat().st_mode & 0o077) == ("a.txt", "a", 0)
    assert file.stat().st_mtime >= before
    assert builds.sha256sums([file]) == f"{builds.digest(file)}  a.txt\n"


def test_the_bill_has_every_dependency_at_its_version(tmp_path: Path) -> None:
    files = [tmp_path / "regraft.whl", tmp_path / "regraft.tar.gz"]
    for file in files:
        file.write_text(file.name)
    for name in ("a.json", "b.json"):
        write_bill(ROOT, tmp_path / name, files, 1_700_000_000)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    bill, pins = json.loads((tmp_path / "a.json").read_text(encoding="utf-8")), pins_of(ROOT / "constraints.txt")
    found = {part["name"]: part["version"] for part in bill["components"]}
    assert {"torch", "timm", "sympy", "numpy"} <= set(found)  # PyTorch needs SymPy
    assert all(pins[name] == version for name, version in found.items())
    assert [part["hashes"][0]["content"] for part in bill["metadata"]["component"]["components"]] == [
        builds.digest(file) for file in sorted(files)
    ]
    needs = {one["ref"]: one.get("dependsOn", []) for one in bill["dependencies"]}
    assert f"torch@{pins['torch']}" in needs["regraft"]
    assert f"sympy@{pins['sympy']}" in needs[f"torch@{pins['torch']}"]


def test_a_dependency_without_a_version_is_an_error() -> None:
    with pytest.raises(ReleaseError, match=r"constraints\.txt has no version of numpy"):
        dependencies(["numpy>=2"], {})
    with pytest.raises(ReleaseError, match="no-such-package is not installed here"):
        dependencies(["no-such-package"], {"no-such-package": "1"})
    assert dependencies(["no-such-package; sys_platform == 'amiga'"], {}) == {}


def test_the_ends_of_what_is_supported_are_those_of_the_gate() -> None:
    oldest, newest = supported_pythons(ROOT)
    assert (oldest, int(newest.partition(".")[2]) > int(oldest.partition(".")[2])) == ("3.11", True)


def test_a_python_that_is_not_there_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(list(words), 2, "", "no interpreter found for Python 3.99")

    monkeypatch.setattr(environments, "_uv", refuse)
    with pytest.raises(ReleaseError, match=r"Python 3\.99 cannot be had here, so .*no interpreter[\s\S]*PYTHONS="):
        check_in("3.99", "highest", tmp_path / "x.whl", "")


def test_what_was_not_checked_is_said() -> None:
    checked = [Checked("3.11", "3.11.7", "lowest-direct", {"torch": "2.4.0"})]
    assert describe(checked, ["3.14"]).splitlines() == [
        "- Python 3.11.7 with the oldest dependencies: torch 2.4.0",
        "- **Not checked**: Python 3.14, which was not named in PYTHONS.",
    ]


def test_the_drawn_images_are_data(tmp_path: Path) -> None:
    from regraft import scan

    draw(tmp_path / "photos")
    dataset = scan(tmp_path / "photos")
    assert (dataset.classes, len(dataset.samples), dataset.bad) == (("blue", "green", "red"), 48, ())
