"""The credentials of a URL are in no file of a run, and in nothing that is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pytest

from regraft.config import load_config
from regraft.runs.train_from import train_from


def test_no_file_of_a_run_has_the_password_of_its_data(
    squares_folder: Path, tmp_path: Path, fast_settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    files, url = fsspec.filesystem("memory"), "memory://me:hunter2@bucket/squares"
    try:
        for file in squares_folder.rglob("*.png"):
            files.pipe_file(f"/me:hunter2@bucket/squares/{file.parent.name}/{file.name}", file.read_bytes())
        run = train_from(url, load_config(overrides=fast_settings), tmp_path / "run")
    finally:
        files.store.clear()
        files.pseudo_dirs[:] = [""]
    found = [file for file in run.path.rglob("*") if file.is_file() and b"hunter2" in file.read_bytes()]
    assert not found
    assert (run.path / "config.toml").read_text(encoding="utf-8").count("memory://bucket/squares") == 1
    assert "hunter2" not in "".join(capsys.readouterr())
