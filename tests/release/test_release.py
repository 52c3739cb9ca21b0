"""A release is reproducible, says what it is made of and what was checked, and leaves nothing out silently."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from zipfile import ZipFile

import builds
import environments
import pytest
from bill import dependencies, pins_of, write_bill
from environments import Checked, End, check, describe, ends_of, resolve, supported_pythons
from failure import ReleaseError
from notes import notes_of
from smoke import EXTRAS, draw, required

import release

ROOT = Path(__file__).parent.parent.parent
CHANGELOG = """# Changelog

## Unreleased

### Added

## [0.2.0] - 2026-11-30

- New.

### Added

- A thing.

## 0.1.0
"""
OLDEST, NEWEST = End("oldest", "3.11", "lowest-direct"), End("newest", "3.14", "highest")


def test_the_notes_are_the_section_of_the_version() -> None:
    assert notes_of(CHANGELOG, "0.2.0") == "- New.\n\n### Added\n\n- A thing."
    for version, message in (("0.1.0", "says nothing of 0.1.0"), ("0.2", "no section 0.2"), ("0.3.0", "no section")):
        with pytest.raises(ReleaseError, match=message):
            notes_of(CHANGELOG, version)
    with pytest.raises(ReleaseError, match=r"below `## Unreleased`, which the notes of 0\.2\.0 would lack"):
        notes_of(CHANGELOG.replace("### Added\n", "### Added\n\n- Another.\n", 1), "0.2.0")


def test_the_package_index_shows_the_readme_without_links_to_files() -> None:
    command = [sys.executable, "-m", "hatch_fancy_pypi_readme", str(ROOT / "pyproject.toml")]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    links = set(re.findall(r"\]\(([^)]*)\)", shown))
    assert links
    assert all(link.startswith("https://") for link in links), links
    plain = re.sub(r"\W+", " ", re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", shown))
    assert "The installation takes a few minutes" in plain
    assert "Open in Colab" in plain
    assert "your first classifier" in plain


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
    """A commit of a project with a version."""
    folder = tmp_path / "repository"
    (folder / "src/regraft").mkdir(parents=True)
    (folder / ".github/workflows").mkdir(parents=True)
    (folder / "pyproject.toml").write_text('[project]\nversion = "0.2.0"\nrequires-python = ">=3.11"\n')
    (folder / "src/regraft/__init__.py").write_text('__version__ = "0.2.0"\n')
    (folder / "CHANGELOG.md").write_text(CHANGELOG)
    (folder / ".gitignore").write_text("build/\ndist/\n")
    (folder / ".github/workflows/gate.yml").write_text('        python: ["3.11", "3.14"]\n')
    (folder / "a.txt").write_text("a")
    run_git(folder, "init", "-q")
    commit(folder)
    return folder


def run_git(folder: Path, *words: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run(["git", "-C", folder, *identity, *words], check=True, capture_output=True)


def commit(folder: Path) -> None:
    run_git(folder, "add", ".")
    run_git(folder, "commit", "-q", "--no-gpg-sign", "--allow-empty", "-m", "a")


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
    assert not (tmp_path / "place/untracked").exists()
    file = tmp_path / "place/a.txt"
    assert (file.read_text(), file.stat().st_mode & 0o077) == ("a", 0)
    assert file.stat().st_mtime >= before
    assert builds.sha256sums([file]) == f"{builds.digest(file)}  a.txt\n"


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The long steps of a release, which note that they ran; the first that is removed from the list fails."""
    left = ["build", "bill", "twine", "resolve", "oldest", "newest"]

    def step(name: str) -> None:
        if name not in left:
            raise ReleaseError(f"{name} failed")

    def build_twice(root: Path, commit: str, out: Path) -> list[Path]:
        step("build")
        (out / "x.whl").write_text("wheel")
        return [out / "x.whl"]

    def write_bill(root: Path, out: Path, files: Sequence[Path], seconds: int) -> None:
        step("bill")
        out.write_text("{}")

    def check_end(end: End, wheel: Path) -> Checked:
        step(end.name)
        return Checked(end, f"{end.python}.1", {"torch": "2.5.0"})

    monkeypatch.setattr(release, "build_twice", build_twice)
    monkeypatch.setattr(release, "write_bill", write_bill)
    monkeypatch.setattr(release, "twine_check", lambda files: step("twine"))
    monkeypatch.setattr(release, "check", check_end)
    monkeypatch.setattr(release, "resolve", lambda end, wheel: step("resolve"))
    monkeypatch.setattr(release, "ends_of", lambda pythons: (OLDEST, NEWEST))
    return left


def test_a_release_replaces_dist_when_all_is_checked(repository: Path, steps: list[str]) -> None:
    (repository / "dist").mkdir()
    (repository / "dist/old.whl").touch()
    release.release(repository, [])
    assert sorted(file.name for file in (repository / "dist").iterdir()) == [
        "NOTES.md", "SHA256SUMS", "sbom.cdx.json", "x.whl",
    ]  # fmt: skip
    notes = (repository / "dist/NOTES.md").read_text()
    assert notes.startswith("# regraft 0.2.0\n\n- New.")
    assert "Python 3.14.1 with the newest" in notes
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=repository / "dist", check=True)
    assert list((repository / "build").iterdir()) == []


@pytest.mark.parametrize("failing", ["build", "bill", "twine", "resolve", "oldest", "newest"])
def test_a_step_that_fails_leaves_dist_as_it_was(
    repository: Path,
    steps: list[str],
    failing: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (repository / "dist").mkdir()
    (repository / "dist/old.whl").write_text("old")
    steps.remove(failing)
    monkeypatch.setattr(release, "ROOT", repository)
    monkeypatch.setattr("sys.argv", ["release.py"])
    assert release.main() == 1
    assert capsys.readouterr().err == f"Error: {failing} failed\nThere is no release; dist/ is as it was.\n"
    assert [file.read_text() for file in (repository / "dist").iterdir()] == ["old"]
    assert list((repository / "build").iterdir()) == []


def test_only_a_commit_with_a_version_of_its_own_is_released(repository: Path, steps: list[str]) -> None:
    (repository / "new.txt").touch()
    with pytest.raises(ReleaseError, match=r"changes that no commit has:\n\?\? new\.txt"):
        release.release(repository, [])
    run_git(repository, "tag", "v0.2.0")
    commit(repository)
    with pytest.raises(ReleaseError, match=r"v0\.2\.0 is the tag of another commit, .* Raise the version"):
        release.release(repository, [])
    run_git(repository, "tag", "--force", "v0.2.0")
    release.release(repository, [])
    assert (repository / "dist/x.whl").is_file()


def test_what_is_no_repository_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=r"git status --porcelain failed: .*not a git repository"):
        release.release(tmp_path, [])


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


def test_pythons_that_are_not_there_or_in_the_wrong_order_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*words: object) -> subprocess.CompletedProcess[str]:
        found = "3.99" not in words
        return subprocess.CompletedProcess(list(words), 0 if found else 2, "", "no interpreter found for Python 3.99")

    monkeypatch.setattr(environments, "_uv", refuse)
    with pytest.raises(ReleaseError, match=r"PYTHONS=3\.11: expected two"):
        ends_of(["3.11"])
    versions = iter([(3, 11, 7), (3, 14, 0), (3, 14, 0), (3, 11, 7), (3, 11, 7)])
    monkeypatch.setattr(environments, "exact_version", lambda python: next(versions))
    assert ends_of(["3.11", "3.14"]) == (OLDEST, NEWEST)
    with pytest.raises(ReleaseError, match=r"PYTHONS=3\.14 3\.11: expected the oldest first"):
        ends_of(["3.14", "3.11"])
    with pytest.raises(ReleaseError, match=r"Python 3\.99 cannot be had here, so .*no interpreter[\s\S]*PYTHONS="):
        ends_of(["3.11", "3.99"])


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    file = tmp_path / "x.whl"
    lines = ["Name: x", "Requires-Dist: torch>=2.5", "Requires-Dist: psutil>=6; sys_platform == 'amiga'"]
    for name in EXTRAS:
        lines.append(f"Requires-Dist: for-{name}>=1; extra == '{name}'")
    lines.append("Requires-Dist: torch>=2.8; extra == 'onnx'")
    with ZipFile(file, "w") as archive:
        archive.writestr("x-1.dist-info/METADATA", "\n".join(lines) + "\n\nText\n")
    return file


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What uv is asked to install, after the options; smoke tests pass, but for a package that is called broken."""
    asked: list[tuple[str, ...]] = []

    def uv(*words: object) -> subprocess.CompletedProcess[str]:
        if words[0] == "pip":
            asked.append(tuple(map(str, words[words.index("--resolution") + 1 :])))
        return subprocess.CompletedProcess(list(words), 0, "", "")

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        printed = "" if command[3:] else "python==3.11.7\ntorch==2.5.0\n"
        return subprocess.CompletedProcess(command, int("broken" in command), printed, "")

    monkeypatch.setattr(environments, "_uv", uv)
    monkeypatch.setattr(environments.subprocess, "run", run)
    return asked


def test_the_lower_bounds_of_each_extra_are_installed_exactly(wheel: Path, installed: list[tuple[str, ...]]) -> None:
    """uv takes the lowest versions only of what it is asked for by name; and one extra must not hide another's."""
    assert check(OLDEST, wheel) == Checked(OLDEST, "3.11.7", {"torch": "2.5.0"})
    start = ("lowest-direct", str(wheel), "torch>=2.5")
    alone = {name: (*start, f"for-{name}>=1", f"for-{name}==1") for name in EXTRAS}
    alone["onnx"] = (*start, "for-onnx>=1", "torch>=2.8", "for-onnx==1", "torch==2.8")
    alone["litert"] = (*start, "for-litert>=1", "for-tensorflow>=1", "for-litert==1")
    assert installed == [(*start, "torch==2.5"), *(alone[name] for name in EXTRAS)]


def test_the_newest_dependencies_are_installed_together(wheel: Path, installed: list[tuple[str, ...]]) -> None:
    check(NEWEST, wheel)
    first, second = installed
    assert first == ("highest", str(wheel), "torch>=2.5")
    assert second == ("highest", str(wheel), "torch>=2.5", *(f"for-{name}>=1" for name in EXTRAS), "torch>=2.8")


def test_packages_that_do_not_go_together_are_found_before_any_is_downloaded(
    wheel: Path, installed: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve(NEWEST, wheel)
    assert [words[:2] for words in installed] == [("highest", "--dry-run")] * 2
    refused = subprocess.CompletedProcess([], 1, "", "No solution found: onnx needs an older torch.\n")
    monkeypatch.setattr(
        environments, "_uv", lambda *words: refused if "--dry-run" in words else subprocess.CompletedProcess([], 0)
    )
    with pytest.raises(
        ReleaseError, match=r"oldest dependencies with no extras cannot .* Python 3\.11:\nNo solution found"
    ):
        resolve(OLDEST, wheel)


def test_a_smoke_test_that_fails_says_where(
    wheel: Path, installed: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "EXTRAS", {"onnx": None, "broken": None})
    with pytest.raises(ReleaseError, match=r"Python 3\.11, the oldest dependencies and the extras broken\."):
        check(OLDEST, wheel)


def test_every_extra_for_users_is_checked() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(EXTRAS) == set(extras) - {"dev", "docs", "release"}
    assert required(["a>=1", "b; extra == 'x'", "c; sys_platform == 'amiga'", "d; python_version > '3'"]) == ["a", "d"]


def test_what_was_not_checked_is_said() -> None:
    checked = [Checked(OLDEST, "3.11.7", {"torch": "2.5.0", "timm": "1.0.20"})]
    first, second = describe(checked, ["3.11", "3.14"]).splitlines()
    assert first.startswith("- Python 3.11.7 with the oldest dependencies: torch 2.5.0, timm 1.0.20; and those of the ")
    assert second == "- **Not checked**: Python 3.14, which was not named in PYTHONS."


def test_the_drawn_images_are_data(tmp_path: Path) -> None:
    from regraft import scan

    draw(tmp_path / "photos")
    dataset = scan(tmp_path / "photos")
    assert (dataset.classes, len(dataset.samples), dataset.bad) == (("blue", "green", "red"), 48, ())
