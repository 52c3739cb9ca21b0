"""`regraft report`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from terminal import regraft


def test_the_report_is_written_again(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    before = (copy / "report.html").read_bytes()
    (copy / "report.html").unlink()
    done = regraft("report", copy)
    assert done.returncode == 0, done.stderr
    assert str(copy / "report.html") in done.stdout
    assert (copy / "report.html").read_bytes() == before
    done = regraft("report", copy, "--json")
    files = json.loads(done.stdout)
    assert files["model_card"] == str(copy / "MODEL_CARD.md")
    assert files["bill_of_materials"] == str(copy / "mlbom.json")
    done = regraft("report", copy, "--data", tmp_path / "nowhere")
    assert done.returncode == 2
    assert "does not exist" in done.stderr
