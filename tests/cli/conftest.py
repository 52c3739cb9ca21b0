"""A trained run for the verbs that use one."""

from __future__ import annotations

from pathlib import Path

import pytest

import regraft


@pytest.fixture
def run(squares_run: regraft.Run) -> Path:
    """The folder of a finished run, which a test must not change."""
    return squares_run.path
