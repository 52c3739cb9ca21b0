"""A run with an export, keys, and the same signed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from terminal import regraft

from regraft.signing.keys import new_key
from regraft.signing.signature import sign


@pytest.fixture(scope="session")
def run(squares_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained on the squares, with an export."""
    out = tmp_path_factory.mktemp("signing") / "squares"
    options = ("--backbone", "cnn", "--image-size", 32, "--finetune-epochs", 0)
    done = regraft("train", squares_folder, "--out", out, *options, "--set", "data.val=0.25", "--set", "data.test=0.25")
    assert done.returncode == 0, done.stderr
    done = regraft("export", out, "--to", "exported-program")
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private key; the public one is beside it, with the suffix .pub."""
    file = tmp_path_factory.mktemp("keys") / "signing.pem"
    new_key(file)
    return file


@pytest.fixture
def signed(run: Path, key: Path, tmp_path: Path) -> Path:
    """A copy of the run, with its export and both signed."""
    copy = Path(shutil.copytree(run, tmp_path / "squares"))
    sign(copy / "exports" / "exported-program", key=key)
    sign(copy, key=key)
    return copy
