"""A run of little squares, and servers of it as processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from served import Server, started
from terminal import regraft

SMALL = (
    "--backbone", "cnn", "--image-size", 32, "--finetune-epochs", 0,
    "--set", "data.val=0.25", "--set", "data.test=0.25",
)  # fmt: skip


@pytest.fixture(scope="session")
def run(squares_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained on the squares."""
    out = tmp_path_factory.mktemp("serving") / "squares"
    done = regraft("train", squares_folder, "--out", out, *SMALL)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def server(run: Path) -> Iterator[Server]:
    """One with two models and the limits that it has by itself."""
    with started(run, f"other={run}", "--unknown", "0.3") as one:
        yield one


@pytest.fixture(scope="session")
def strict(run: Path) -> Iterator[Server]:
    """One with a token and narrow limits."""
    with started(
        run, "--max-megabytes", 0.1, "--max-images", 2, "--max-megapixels", 0.02, "--header-seconds", 0.6,
        "--body-seconds", 1, "--connections", 30, REGRAFT_TOKEN="correct-horse-battery",
    ) as one:  # fmt: skip
        one.client.headers["Authorization"] = "Bearer correct-horse-battery"
        yield one
