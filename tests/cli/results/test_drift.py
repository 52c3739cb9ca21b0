"""`regraft drift`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from terminal import contents, csv_rows, regraft


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of noise."""
    folder, rng = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    for i in range(24):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / f"{i:02d}.png")
    return folder


def test_a_verdict_with_tables(run: Path, noise: Path, tmp_path: Path) -> None:
    before = contents(run)
    done = regraft("drift", run, noise, "--label", 3, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Inputs" in done.stdout
    assert "changed against validation (p = " in done.stdout
    for words in ("inputs: distance", "answers: classes", "of all tests", "Strangest", "Label next", "strangest.png"):
        assert words in done.stdout
    assert contents(run) == before  # a signature of the run stays valid
    rows = csv_rows(tmp_path / "drift" / "label_next.csv")
    assert len(rows) == 3
    assert Path(rows[0]["path"]).is_file()


def test_json_and_exit_code(run: Path, noise: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = regraft("drift", run, noise, "--out", out, "--json", "--fail-on-drift")
    assert done.returncode == 1
    value = json.loads(done.stdout)
    assert value["drift"] is True
    assert value == {**json.loads((out / "drift.json").read_text()), "files": value["files"]}
    done = regraft("drift", run, noise, "--against", noise, "--out", out, "--json", "--fail-on-drift")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["drift"] is False


def test_wrong_requests(run: Path, noise: Path, tmp_path: Path) -> None:
    for arguments, words in (
        ((tmp_path / "nothing",), "does not exist"),
        ((noise, "--alpha", "2"), "alpha = 2; expected"),
        ((noise, "--since", "2026-01-01"), "is no log of answers"),
        ((noise, "--out", noise), "contains images"),
    ):
        done = regraft("drift", run, *arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        assert words in done.stderr
