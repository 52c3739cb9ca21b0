"""`regraft cache`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from terminal import FAST_FLAGS, regraft


def test_entries_are_listed_and_pruned(squares_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    assert "0 MB in" in regraft("cache").stdout
    done = regraft("train", squares_folder, "--out", tmp_path / "run", *FAST_FLAGS)
    assert done.returncode == 0, done.stderr
    shown = regraft("cache").stdout
    for words in ("pixels", "32 px, stretch", "efficientnet_lite0 before blocks.3.0, 32 px", "last used"):
        assert words in shown
    value = json.loads(regraft("cache", "--json").stdout)
    assert sum(entry["bytes"] for entry in value["entries"]) == value["bytes"] > 0
    kinds = {entry["kind"] for entry in value["entries"]}
    assert kinds - {"features"} == {  # which are kept where fine-tuning was not
        "hashes",
        "image_stats",
        "thumbnails",
        "near_duplicates",
        "pixels",
        "activations",
    }
    count = len(value["entries"])
    assert f"Removed 0 of {count}" in regraft("cache", "--prune", "--keep-gb", "1").stdout
    assert f"Removed {count} of {count}" in regraft("cache", "--prune").stdout
    assert json.loads(regraft("cache", "--json").stdout)["entries"] == []
