"""`regraft evaluate` and the report of a run whose model gives an image any number of classes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from terminal import regraft

from regraft.config import load_config
from regraft.report.run_table import cells_of, run_row
from regraft.runs.run import Run
from regraft.runs.train import train_from


@pytest.fixture(scope="module")
def run(several_labels: Path, tmp_path_factory: pytest.TempPathFactory, fast_settings: dict[str, Any]) -> Run:
    """A head on images with some of three colors, with thresholds for a precision."""
    settings = {
        **fast_settings, "data.task": "multilabel", "training.finetune_epochs": 0,
        "training.thresholds": "precision=0.8", "data.val": 0.3, "data.test": 0.3,
    }  # fmt: skip
    return train_from(several_labels, load_config(overrides=settings), tmp_path_factory.mktemp("runs") / "several")


def test_stored_predictions_and_other_images_are_evaluated(run: Run, several_labels: Path, tmp_path: Path) -> None:
    own = regraft("evaluate", run.path)
    assert own.returncode == 0, own.stderr
    for words in ("mAP", "micro F1", "all right", "threshold", "mean over the classes", "regraft report"):
        assert words in own.stdout, words
    out = tmp_path / "evaluated"
    (several_labels.parent / "broken.png").write_bytes(b"nothing")
    table = several_labels.with_name("more.csv")
    table.write_text(several_labels.read_text() + "broken.png,red\n")
    done = regraft(
        "evaluate", run.path, table, "--json", "--csv", tmp_path / "p.csv", "--plot", tmp_path / "c.png", "--out", out
    )
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert (value["task"], value["count"]) == ("multilabel", 80)
    known = [row for row in csv.DictReader((run.path / "split.csv").read_text().splitlines()) if row["part"] != "test"]
    assert value["overlap"]["identical"] == len(known)
    assert value["overlap"]["count"] == 80 - len(known)
    assert [bad["path"] for bad in value["bad"]] == ["broken.png"]
    assert len(value["calibration"]["per_class"]) == 3
    assert (tmp_path / "c.png").stat().st_size > 1000
    assert json.loads((out / "evaluation.json").read_text()) == value
    assert (out / "predictions.csv").read_bytes() == (tmp_path / "p.csv").read_bytes()
    assert {file.name for file in out.glob("*.png")} == {"precision_recall.png"}


def test_the_cautions_about_subgroups_are_printed_once(run: Run, several_labels: Path) -> None:
    done = regraft("evaluate", run.path, several_labels, "--by", r"(\d)\d")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("8 subgroups have fewer than 20 images") == 1


def test_the_table_of_runs_has_what_several_labels_have(run: Run) -> None:
    cells = cells_of(run_row(run.metrics))
    assert cells["test mAP (95 %)"].startswith(f"{run.metrics['test']['mean_average_precision']:.3f} (")


def test_the_gain_of_test_time_augmentation_is_that_of_whole_images(run: Run, several_labels: Path) -> None:
    done = regraft("evaluate", run.path, several_labels, "--tta", "flip")
    assert "points of exact match" in done.stdout
    printed = " ".join(done.stdout.split())
    assert "exact match and the mAP of" in printed
    assert "may be too high" in printed


def test_thresholds_for_a_precision_are_kept_and_explained(run: Run) -> None:
    calibration = run.metrics["calibration"]
    assert calibration["thresholds_for"] == "precision=0.8"
    assert tuple(run.description["head"]["thresholds"]) == run.classifier.thresholds
    val = run.metrics["val"]
    for row in val["per_class"]:
        assert row["precision"] >= 0.8 or row["threshold"] > 1
    report = (run.path / "report.html").read_text()
    assert "80 % of its answers are right on the validation images" in report.replace("\N{NO-BREAK SPACE}", " ")
    for section in ("curves", "together", "calibration", "label_errors"):
        assert f'id="{section}"' in report
    card = (run.path / "MODEL_CARD.md").read_text()
    assert "Mean average precision" in card
    header = (run.path / "label_errors.csv").read_text().splitlines()[0]
    assert header == "path,labels,class,suggestion,probability"
    assert (run.path / "plots" / "precision_recall.png").stat().st_size > 1000


@pytest.mark.parametrize("wrong", ["recall", "precision=0", "precision=1.2", "precision=high"])
def test_other_purposes_of_thresholds_are_refused(wrong: str, several_labels: Path) -> None:
    done = regraft("train", several_labels, "--task", "multilabel", "--set", f"training.thresholds={wrong}")
    assert done.returncode == 2
    assert "precision=0.9" in done.stderr


def test_a_notebook_shows_evaluation_predictions_and_run(run: Run) -> None:
    evaluation = run.evaluate_labels()
    for shown in (evaluation, run.label_predictions, run):
        html = shown._repr_html_()
        assert html is not None
        assert html.startswith('<div class="regraft">')
    assert "Mean average precision" in (evaluation._repr_html_() or "")
