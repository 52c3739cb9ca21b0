"""A run with an export, and servers of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from served import Server, in_thread
from terminal import regraft

from regraft.serving.limits import Limits


@pytest.fixture(scope="session")
def run(squares_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained on the squares, with an export to ONNX."""
    out = tmp_path_factory.mktemp("serving") / "squares"
    options = ("--backbone", "cnn", "--image-size", 32, "--finetune-epochs", 0)
    done = regraft("train", squares_folder, "--out", out, *options, "--set", "data.val=0.25", "--set", "data.test=0.25")
    assert done.returncode == 0, done.stderr
    done = regraft("export", out, "--to", "onnx")
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def server(run: Path) -> Iterator[Server]:
    """A server of two models with the default limits."""
    with in_thread(run, f"other={run}", limits=Limits(), ood_rate=0.3) as running:
        yield running


@pytest.fixture(scope="session")
def strict(run: Path) -> Iterator[Server]:
    """A server with a token and low limits."""
    limits = Limits(body_bytes=100_000, images=2, pixels=20_000, header_seconds=0.4, body_seconds=0.6, connections=30)
    with in_thread(run, limits=limits, token="correct-horse-battery") as running:
        running.client.headers["Authorization"] = "Bearer correct-horse-battery"
        yield running


@pytest.fixture(scope="session")
def proxied(run: Path) -> Iterator[Server]:
    """A server at the path /a/b of a proxy, with a token and two origins."""
    proxy = {"root_path": "/a/b", "allow_origins": ["https://one.example", "http://two.example:3000"]}
    with in_thread(run, limits=Limits(), token="correct-horse-battery", proxy=proxy) as running:
        running.client.headers["Authorization"] = "Bearer correct-horse-battery"
        yield running
