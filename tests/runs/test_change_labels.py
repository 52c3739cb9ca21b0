"""Labels of a run that gives an image any number of them are renamed, dropped and merged, into a new run."""

from __future__ import annotations

import copy
import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from terminal import csv_rows, regraft

import regraft as library
from regraft.config import load_config
from regraft.errors import UsageError
from regraft.models.serialization import load_classifier
from regraft.runs.change_classes import class_counts
from regraft.runs.class_changes import ClassChanges
from regraft.runs.subgroups import evaluate_stored


@pytest.fixture
def without_images(several_run: library.Run, tmp_path: Path) -> library.Run:
    """The run where its images are not."""
    shutil.copytree(several_run.path, tmp_path / "copy")
    (tmp_path / "copy" / "source.json").unlink()
    return library.load(tmp_path / "copy")


def test_new_names_and_dropped_labels_change_no_other_answer(
    several_run: library.Run, several_labels: Path, without_images: library.Run, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    done = regraft("classes", without_images.path, "--rename", "red=azure", "--drop", "blue", "--out", out)
    assert done.returncode == 0, done.stderr
    run = library.load(out)
    assert run.classes == ("azure", "green")
    order = [2, 1]
    before, after = several_run.description["head"]["thresholds"], run.description["head"]["thresholds"]
    assert after == [before[i] for i in order]
    images = sorted(several_labels.parent.glob("*.png"))[:4]
    for one, two in zip(several_run.predict(images), run.predict(images), strict=True):
        assert two.probabilities == pytest.approx(one.probabilities[order], rel=1e-5)
        assert two.ood_p_value == one.ood_p_value
        assert set(two.labels) == {{"red": "azure"}.get(name, name) for name in one.labels} - {"blue"}
    stored = several_run.label_predictions.only_classes(["red", "green"])
    assert np.array_equal(run.label_predictions.probabilities, stored.probabilities)
    assert np.array_equal(run.label_predictions.indicators, stored.indicators)
    rows, earlier = (csv_rows(r.path / "split.csv") for r in (run, several_run))
    assert [row["sha256"] for row in rows] == [row["sha256"] for row in earlier]  # an image may have no label
    assert {row["label"] for row in rows} == {"", "azure", "green", "azure|green"}


def test_what_is_stored_of_the_labels_that_stay_is_that_of_the_run(several_run: library.Run, tmp_path: Path) -> None:
    earlier = copy.deepcopy(several_run.metrics)
    run = library.change_classes(several_run, drop=["blue"], rename={"red": "azure"}, out=tmp_path / "run")
    assert several_run.metrics == earlier
    for part in ("val", "test"):
        before, after = ({r["name"]: r for r in r.metrics[part]["per_class"]} for r in (several_run, run))
        for old, new in (("red", "azure"), ("green", "green")):
            for name in ("support", "threshold", "average_precision", "precision", "recall"):
                assert after[new][name] == pytest.approx(before[old][name])
        order = [several_run.classes.index(name) for name in ("red", "green")]
        for when in ("before", "after"):
            errors = [r.metrics["calibration"][part][when]["per_class"] for r in (several_run, run)]
            assert [one["ece"] for one in errors[1]] == pytest.approx([errors[0][i]["ece"] for i in order], abs=1e-6)
    assert run.metrics["data"]["counts"]["test"] == {
        new: several_run.metrics["data"]["counts"]["test"][old] for old, new in (("red", "azure"), ("green", "green"))
    }
    assert run.metrics["train"]["accuracy"] is None
    assert run.metrics["model"]["parameters"] == load_classifier(run.path).parameter_count()
    assert "blue is dropped" in (run.path / "report.html").read_text()
    assert (run.path / "plots" / "precision_recall.png").is_file()
    counts = class_counts(run)
    assert {name: sum(of_part.values()) for name, of_part in counts.items()} == {
        "azure": sum("red" in row["label"] for row in csv_rows(several_run.path / "split.csv")),
        "green": sum("green" in row["label"] for row in csv_rows(several_run.path / "split.csv")),
    }
    one = library.change_classes(run, drop=["green"], out=tmp_path / "one")
    assert one.classes == ("azure",)
    with pytest.raises(UsageError, match="at least one"):
        library.change_classes(one, drop=["azure"], out=tmp_path / "none")


def test_subgroups_are_measured_anew_on_the_labels_that_stay(
    several_run: library.Run, several_labels: Path, tmp_path: Path
) -> None:
    shutil.copytree(several_labels.parent, tmp_path / "images")
    table, path = tmp_path / "images" / "labels.csv", tmp_path / "run"
    rows = csv_rows(table)
    with table.open("w", newline="") as file:
        cells = [(row["path"], row["label"], "AB"[i % 2]) for i, row in enumerate(rows)]
        csv.writer(file).writerows([("path", "label", "camera"), *cells])
    shutil.copytree(several_run.path, path)
    (path / "source.json").write_text(json.dumps({"data": str(table)}))
    metrics = json.loads((path / "metrics.json").read_text())
    for part in ("val", "test"):
        found = evaluate_stored(library.load(path), part, by=["camera"]).subgroups
        metrics[part]["subgroups"] = [one.to_json() for one in found]
    (path / "metrics.json").write_text(json.dumps(metrics))

    run = library.change_classes(path, drop=["blue"], out=tmp_path / "dropped")
    (stored,) = run.metrics["test"]["subgroups"]
    assert stored["by"] == "camera"
    assert stored["groups"] != metrics["test"]["subgroups"][0]["groups"]
    predictions = run.label_predictions.part("test")
    for group in stored["groups"]:
        is_in = ["AB"[int(Path(name).stem) % 2] == group["value"] for name in predictions.ids]
        expected = average_precision_score(predictions.indicators[is_in], predictions.probabilities[is_in])
        assert group["count"] == sum(is_in)
        assert group["scores"]["mAP"]["value"] == pytest.approx(expected)
    assert library.evaluate(run, by="camera").subgroups[0].to_json() == stored
    assert "By camera, the worst first" in (run.path / "report.html").read_text()

    table.unlink()
    done = regraft("classes", path, "--drop", "blue", "--out", tmp_path / "without")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "No subgroups by camera are measured without the dropped labels. The table of" in said
    assert "subgroups" not in library.load(tmp_path / "without").metrics["test"]


def test_merged_labels_are_learned_from_the_images(
    several_run: library.Run, without_images: library.Run, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="are needed"):
        library.change_classes(without_images, merge={"warm": ["green", "red"]}, out=tmp_path / "no")
    run = library.change_classes(several_run, merge={"warm": ["green", "red"]}, out=tmp_path / "run")
    assert run.classes == ("blue", "warm")
    before, after = ({row["sha256"]: row for row in csv_rows(r.path / "split.csv")} for r in (several_run, run))
    assert before.keys() == after.keys()
    for sha256, row in after.items():
        labels = set(before[sha256]["label"].split("|"))
        assert row["part"] == before[sha256]["part"]
        assert set(row["label"].split("|")) - {""} == {"blue"} & labels | (
            {"warm"} if labels & {"green", "red"} else set()
        )
    comparison = run.metrics["earlier_run"]["comparison"]
    assert [row["name"] for row in comparison["classes"]] == ["blue"]
    assert comparison["count"] == several_run.metrics["test"]["count"]


def test_weights_of_classes_follow_their_names(squares_run: library.Run, tmp_path: Path) -> None:
    shutil.copytree(squares_run.path, tmp_path / "run")
    config = load_config(squares_run.path / "config.toml", overrides={"training.class_weights": {"red": 3.0, "1": 2.0}})
    (tmp_path / "run" / "config.toml").write_text(config.to_toml())
    renamed = library.change_classes(tmp_path / "run", rename={"red": "rouge"}, out=tmp_path / "renamed")
    assert load_config(renamed.path / "config.toml").training.class_weights == {"rouge": 3.0, "green": 2.0}
    changes = ClassChanges.of(squares_run.classes, {}, {"warm": ["green", "red"]}, ["blue"], "multilabel")
    assert changes.of_class_weights({"red": 3.0, "green": 2.0, "blue": 9.0}) == {"warm": 3.0}
