"""Answers that are the reference for those in use are of the head that is used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import regraft
from regraft.runs.reference_answers import has_answers, is_refitted, reference_answers


def test_validation_and_for_a_refitted_head_the_test(squares_run: regraft.Run, tmp_path: Path) -> None:
    assert set(reference_answers(squares_run).parts) == {"val"}
    assert has_answers(squares_run)
    shutil.copytree(squares_run.path, tmp_path / "run")
    file = tmp_path / "run" / "metrics.json"
    metrics = json.loads(file.read_text())
    metrics["training"]["refitted"] = True
    file.write_text(json.dumps(metrics))
    refitted = regraft.load(tmp_path / "run")
    assert is_refitted(refitted)
    assert set(reference_answers(refitted).parts) == {"test"}
    del metrics["training"]["refitted"]  # as runs of the version before
    file.write_text(json.dumps(metrics))
    assert not is_refitted(regraft.load(tmp_path / "run"))
