"""Names of packages lead to one index, and to what was tested."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def requirements() -> list[Requirement]:
    every = [*PROJECT["dependencies"], *(text for texts in PROJECT["optional-dependencies"].values() for text in texts)]
    return [Requirement(text) for text in every]


def test_requirements_are_names_and_no_addresses(requirements: list[Requirement]) -> None:
    assert [str(one) for one in requirements if one.url] == []


def test_every_requirement_is_pinned_by_its_name(requirements: list[Requirement]) -> None:
    """What is not for other systems was installed from PyPI when the gate passed."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {canonicalize_name(line.partition("==")[0]) for line in lines if "==" in line}
    here = {canonicalize_name(one.name) for one in requirements if one.marker is None or one.marker.evaluate()}
    assert here - pinned - {"regraft"} == set()


def test_extras_of_extras_are_the_package_s_own(requirements: list[Requirement]) -> None:
    own = [one for one in requirements if canonicalize_name(one.name) == PROJECT["name"]]
    assert own
    assert all(one.extras <= set(PROJECT["optional-dependencies"]) for one in own)


def test_no_second_index_is_added() -> None:
    """pip takes the newest version of all indexes, so that whoever registers a name in one of them is installed."""
    places = ["*.md", "*.toml", "*.txt", "Makefile", "Dockerfile", "*.yaml", "*.yml", "*.sh", "*.ipynb", "release/*.py"]
    files = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", "--", *places], capture_output=True, text=True, check=True
    ).stdout.split("\0")
    adding = re.compile(r"extra-index-url|EXTRA_INDEX_URL|--find-links (?!wheels)")
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in files if name and (ROOT / name).is_file()}
    assert "docs/data.md" in texts
    assert [name for name, text in texts.items() if adding.search(text)] == []
