"""Learning curves of groups of pictures that get one answer each, and of classes that have an order."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import regraft
from regraft.cli import app
from regraft.cli.tasks.classification import learning_curve_lines
from regraft.config import load_config
from regraft.errors import DataError, UsageError

SMALL = {"model.image_size": 32}


def test_groups_are_what_is_counted(lesions: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = CliRunner().invoke(app, [
        "learning-curve", str(lesions), "--pool-by", "lesion", "--repeats", "1", "--set", "data.label_column=kind",
        "--set", "model.image_size=32", "--out", str(out),
    ])  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "    groups   accuracy" in done.output
    assert "Twice the groups of" in done.output
    value = json.loads((out / "learning_curve.json").read_text())
    assert value["groups"] == 20
    assert [row["groups"] for row in value["classes"]] == [10, 10]
    assert [point["groups"] for point in value["accuracy"]["extrapolated"]] == [20, 40, 80]
    with (out / "learning_curve.csv").open(newline="") as file:
        sizes = {float(row["groups"]) for row in csv.DictReader(file) if row["score"] == "accuracy"}
    assert {16, 20, 40, 80} <= sizes


def test_groups_of_one_picture_have_the_curve_of_pictures(squares: regraft.Dataset) -> None:
    alone = squares.with_samples([replace(sample, group=sample.path) for sample in squares.samples])
    options = {"config": load_config(overrides=SMALL), "repeats": 1, "each": False}
    pooled = regraft.learning_curve(replace(alone, pool_by="path"), **options)
    plain = regraft.learning_curve(alone, **options)
    assert pooled.accuracy == plain.accuracy
    assert repr(pooled).startswith("LearningCurve(48 groups of 1 picture, ")


def test_grades_have_a_kappa_at_each_size(grades: Path, tmp_path: Path) -> None:
    config = load_config(overrides=SMALL | {"data.order": "none,mild,severe"})
    curve = regraft.learning_curve(grades, config=config, repeats=1, each=False, out=tmp_path / "out")
    assert curve.quadratic_kappa is not None
    assert len(curve.quadratic_kappa) == len(curve.accuracy.sizes)
    assert curve.quadratic_kappa[-1].value > 0.5
    assert all(kappa.low <= kappa.value <= kappa.high <= 1 for kappa in curve.quadratic_kappa)
    assert f"{curve.quadratic_kappa[-1].value:8.3f}" in "\n".join(learning_curve_lines(curve))
    stored = json.loads((tmp_path / "out/learning_curve.json").read_text())["quadratic_kappa"]["measured"]
    np.testing.assert_allclose([point["value"] for point in stored], [k.value for k in curve.quadratic_kappa])
    assert "quadratic_kappa,," in (tmp_path / "out/learning_curve.csv").read_text()


def test_what_has_no_curve_is_refused(lesions: Path, grades: Path) -> None:
    both = {"data.label_column": "kind", "data.pool_by": "lesion", "model.head": "mlp"}
    with pytest.raises(UsageError, match="hidden layers"):
        regraft.learning_curve(lesions, config=load_config(overrides=SMALL | both))
    few = SMALL | {"data.label_column": "kind", "data.pool_by": r"(\d)\d_"}
    with pytest.raises(DataError, match=r"images with different labels"):
        regraft.learning_curve(lesions, config=load_config(overrides=few))
    several = {"data.order": "none,mild,severe", "model.backbone": "resnet18,resnet50"}
    with pytest.raises(UsageError, match="several backbones"):
        regraft.learning_curve(grades, config=load_config(overrides=SMALL | several))
