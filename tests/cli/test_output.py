"""What the verbs print alike."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path

import pytest

from regraft.cli.output import console, parse_names, parse_seconds, print_json, print_result
from regraft.errors import UsageError
from regraft.evaluation.metrics import evaluate
from regraft.evaluation.predictions import Predictions
from regraft.runs.run import load


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("90", 90), ("10m", 600), ("2h", 7200), ("1.5 m", 90), (" 5s ", 5)]
)
def test_times_have_units(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-5s", "0", "10 d", "1m30s"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected a time such as 90s, 10m or 2h"):
        parse_seconds(text)


def test_names_are_distinct_and_in_order() -> None:
    assert parse_names(" b, a,,b ") == ["b", "a"]


def test_validation_accuracies_of_two_precisions_are_explained(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    file = copy / ("history.csv" if load(run).metrics["model"]["finetuned_from"] else "head_path.csv")
    lines = file.read_text().splitlines()
    column = lines[0].split(",").index("val_accuracy")
    explained = {}
    for change in (0.0, 0.125):
        rows = [line.split(",") for line in lines]
        (row,) = [row for row in rows if row[-1] == "True"]
        row[column] = str(load(copy).metrics["val"]["accuracy"] - change)
        file.write_text("".join(",".join(row) + "\n" for row in rows))
        print_result(console(json_wanted=False), load(copy), 1.0)
        explained[change] = "in float32, as in prediction" in capsys.readouterr().out
    assert explained == {0.0: False, 0.125: True}


def test_classes_that_were_not_tested_are_named() -> None:
    tested = evaluate(Predictions.from_arrays([0, 1], [[1.0, 0.0], [0.0, 1.0]]))
    assert tested.of_tested == ""
    partly = evaluate(Predictions.from_arrays([0, 0], [[1.0, 0.0], [1.0, 0.0]], classes=["cat", "dog"]))
    assert partly.of_tested == " over the 1 of 2 classes that were tested (not dog)"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8", "utf-16"])
def test_json_is_utf_8_whatever_the_encoding_of_the_terminal(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"path": "Müll/ネコ.jpg", "bytes": "\udcff"}
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    print_json(value)
    assert json.loads(stream.buffer.getvalue().decode("utf-8")) == value  # type: ignore[attr-defined]  # a BytesIO
