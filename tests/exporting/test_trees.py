"""An export of a run with a tree of classes answers as the run does, with regraft and without it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from terminal import regraft

from regraft.errors import ExportError
from regraft.exporting.export import export
from regraft.exporting.exported_model import ExportedModel
from regraft.runs.evaluate import evaluate
from regraft.runs.run import Run


@pytest.fixture(scope="module")
def tree_export(tree_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    (result,) = export(tree_run, "onnx", out=tmp_path_factory.mktemp("exports"))
    return result.path


def test_an_export_has_the_tree_of_the_run(tree_run: Run, tree_export: Path, tree_folder: Path) -> None:
    model = ExportedModel(tree_export)
    assert model.taxonomy == tree_run.taxonomy
    evaluation = evaluate(model, tree_folder, min_confidence=0.6)
    assert evaluation.hierarchy is not None
    assert evaluation.hierarchy.f1 == pytest.approx(evaluate(tree_run, tree_folder).hierarchy.f1)  # type: ignore[union-attr]
    assert "taxonomy" in (tree_export / "README.md").read_text()


def test_the_script_answers_as_the_command_does(tree_run: Run, tree_export: Path, tree_folder: Path) -> None:
    images = sorted(tree_folder.rglob("0.png"))
    doubtful = min(tree_run.predict(images), key=lambda prediction: prediction.confidence)
    for least in (0.0, (doubtful.confidence + doubtful.levels()[0][1]) / 2, 1.01):
        script = subprocess.run(
            [sys.executable, tree_export / "predict.py", "--min-confidence", str(least), *images],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        done = regraft("predict", tree_export, *images, "--min-confidence", min(least, 1), "--json")
        assert done.returncode == 0, done.stderr
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        for line, row in zip(script.stdout.splitlines(), rows, strict=True):
            if least > 1:
                assert "(not sure)" in line
                continue
            assert line.startswith(f"{row['path']} ")
            answer, probability = line.removeprefix(row["path"]).rsplit(maxsplit=1)
            assert answer.strip() == (row["label"] if row["accepted"] else "(not sure)")
            assert not row["accepted"] or float(probability) == pytest.approx(row["confidence"], abs=1e-4)
        if 0 < least < 1:
            assert {row["label"] for row in rows} & {"warm", "cold"}


@pytest.mark.parametrize("tree", [["warm"], {"red": "warm"}, {"red": "red"}])
def test_a_damaged_tree_is_refused(tree_export: Path, tmp_path: Path, tree: object) -> None:
    copy = shutil.copytree(tree_export, tmp_path / "copy")
    description = json.loads((copy / "export.json").read_text())
    (copy / "export.json").write_text(json.dumps({**description, "taxonomy": tree}))
    with pytest.raises(ExportError, match="is damaged"):
        ExportedModel(copy)
