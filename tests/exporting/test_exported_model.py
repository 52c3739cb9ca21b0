"""Loading an export: a folder that was changed, damaged or prepared by somebody else is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regraft.errors import ExportError
from regraft.exporting.exported_model import ExportedModel
from regraft.runs.run import Run


def test_model_predicts_pixels(onnx_export: Path, run: Run) -> None:
    model = ExportedModel(onnx_export, threads=1)
    assert model.classes == run.classes
    assert model.probabilities(np.zeros((2, 32, 32, 3), np.uint8)).shape == (2, 3)
    with pytest.raises(ExportError, match="failed to predict"):
        model.probabilities(np.zeros((1, 3, 32, 32), np.uint8))


def test_changed_description_is_refused(onnx_export: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(onnx_export, copy)
    original = (copy / "export.json").read_text()
    changes: tuple[tuple[Callable[[Any], Any], str], ...] = (
        (lambda v: v["preprocessing"].update(size=224.5), "pixels"),
        (lambda v: v["preprocessing"].update(mean=["a", "b", "c"]), "mean"),
        (lambda v: v.update(format="pickle"), "has the format"),
        (lambda v: v.update(version=2), "expected version 1"),
        (lambda v: v.pop("sha256"), "damaged"),
        (lambda v: v["sha256"].update({"predict.py": "0"}), "SHA-256 differs"),
    )
    for change, message in changes:
        value = json.loads(original)
        change(value)
        (copy / "export.json").write_text(json.dumps(value))
        with pytest.raises(ExportError, match=message):
            ExportedModel(copy)


def test_links_are_refused(onnx_export: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(onnx_export, copy)
    (copy / "model.onnx").rename(tmp_path / "model.onnx")
    (copy / "model.onnx").symlink_to(tmp_path / "model.onnx")
    with pytest.raises(ExportError, match="is a link"):
        ExportedModel(copy)
