"""Runs with a tree of classes: trained, evaluated, predicted, grown and changed."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from run_documents import check_documents
from terminal import csv_rows, regraft

import regraft as library
from regraft.config import load_config
from regraft.data.taxonomy import Taxonomy
from regraft.errors import DataError, UsageError
from regraft.runs.run_images import held_out, images_of, split_rows
from regraft.runs.train import train_from

HEAD = {"model.image_size": 32, "training.finetune_epochs": 0, "data.val": 0.3, "data.test": 0.3}
RED, BLUE = (220, 40, 30), (30, 60, 220)
WriteSquares = Callable[..., Path]


def test_a_run_keeps_its_tree_and_measures_under_it(tree_run: library.Run) -> None:
    assert tree_run.classes == ("blue", "green", "orange", "red")
    description = json.loads((tree_run.path / "model.json").read_text())
    assert description["taxonomy"] == {
        "blue": "cold", "cold": None, "green": "cold", "orange": "warm", "red": "warm", "warm": None,
    }  # fmt: skip
    assert library.load(tree_run.path).classifier.taxonomy == tree_run.taxonomy
    for part in ("val", "test"):
        stored, evaluation = tree_run.metrics[part]["hierarchy"], tree_run.evaluate(part)
        assert evaluation.hierarchy is not None
        assert evaluation.hierarchy.to_json() == stored
        (level,) = evaluation.hierarchy.levels
        assert level.nodes == ("cold", "warm")
        assert level.accuracy >= evaluation.accuracy
    assert (tree_run.path / "plots" / "confusion_matrix_level_1.png").is_file()


def test_the_report_and_the_card_show_the_tree(tree_run: library.Run) -> None:
    page = (tree_run.path / "report.html").read_text(encoding="utf-8")
    assert "Tree of classes" in page
    assert "Confusion matrix of level 1" in page
    assert "Hierarchical precision" in page
    assert "Under the tree of classes, the hierarchical F1 is" in (tree_run.path / "MODEL_CARD.md").read_text()


def test_flat_runs_write_nothing_about_trees(squares_run: library.Run) -> None:
    assert squares_run.taxonomy is None
    for name in ("model.json", "metrics.json", "MODEL_CARD.md", "report.html"):
        text = (squares_run.path / name).read_text(encoding="utf-8").lower()
        assert "taxonomy" not in text or name == "report.html"  # whose config.toml has the setting
        assert "hierarch" not in text


def test_predictions_have_sums_levels_and_answers(tree_run: library.Run, tree_folder: Path) -> None:
    prediction = tree_run.predict(tree_folder / "warm/red/0.png")[0]
    of = dict(zip(prediction.classes, prediction.probabilities, strict=True))
    assert prediction.nodes() == pytest.approx({"cold": of["blue"] + of["green"], "warm": of["orange"] + of["red"]})
    levels = prediction.levels()
    assert levels[0][0] == "warm"
    assert levels[-1] == (prediction.label, prediction.confidence)
    assert prediction.answer_at(prediction.confidence) == (prediction.label, prediction.confidence)
    between = (prediction.confidence + levels[0][1]) / 2
    assert prediction.answer_at(between) == levels[0]
    assert prediction.answer_at(1.1) is None
    flat = library.Prediction("x", ("a", "b"), np.array([0.3, 0.7]))
    assert (flat.nodes(), flat.levels(), flat.answer_at(0.7), flat.answer_at(0.8)) == (
        {},
        [("b", 0.7)],
        ("b", 0.7),
        None,
    )
    unreadable = library.Prediction("x", tree_run.classes, np.empty(0), "broken", taxonomy=tree_run.taxonomy)
    assert (unreadable.nodes(), unreadable.levels(), unreadable.answer_at(0)) == ({}, [], None)


def test_the_threshold_of_a_run_counts_nodes_as_answers(tree_run: library.Run) -> None:
    selection = tree_run.confidence_threshold(0.95)
    assert selection.accuracy >= 0.95
    assert selection.class_share is not None
    assert selection.class_share <= selection.coverage


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_the_command_predicts_nodes_where_no_class_is_sure(
    tree_run: library.Run, tree_folder: Path, tmp_path: Path, kind: str
) -> None:
    image = tree_folder / "warm/red/0.png"
    prediction = tree_run.predict(image)[0]
    least = (prediction.confidence + prediction.levels()[0][1]) / 2
    done = regraft(
        "predict", tree_run.path, image, "--min-confidence", least, "--out", tmp_path / "p", "--format", kind
    )
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "p").glob(f"part-*.{kind}")
    if kind == "parquet":
        import pyarrow.parquet

        (row,) = pyarrow.parquet.read_table(file).to_pylist()
    else:
        text = file.read_text()
        (row,) = [json.loads(text)] if kind == "jsonl" else csv.DictReader(text.splitlines())
    assert row["label"] == "warm"
    assert float(row["confidence"]) == pytest.approx(prediction.nodes()["warm"])
    assert row["accepted"] in (True, "yes")
    if kind == "jsonl":
        assert [one["label"] for one in row["levels"]] == [name for name, _ in prediction.levels()]
        assert row["top"][0]["label"] == prediction.label
    else:
        assert float(row["sum(warm)"]) == pytest.approx(prediction.nodes()["warm"])
        assert float(row[f"p({prediction.label})"]) == pytest.approx(prediction.confidence)


def test_the_terminal_shows_the_way_from_the_top(tree_run: library.Run, tree_folder: Path) -> None:
    done = regraft("predict", tree_run.path, tree_folder / "warm/red/0.png", "--min-accuracy", 0.95)
    assert done.returncode == 0, done.stderr
    assert "from the top of the tree" in done.stdout
    assert "warm" in done.stdout
    assert "A class answers" in done.stdout
    both = regraft("predict", tree_run.path, tree_folder, "--min-accuracy", 0.9, "--min-confidence", 0.5)
    assert (both.returncode, "expected one" in both.stderr) == (2, True)


def test_other_data_is_evaluated_under_the_tree(
    tree_run: library.Run, write_squares: WriteSquares, tmp_path: Path
) -> None:
    more = write_squares(tmp_path / "more", {"warm/red": RED, "cold/blue": BLUE}, 3, seed=5)
    nested = library.evaluate(tree_run, more, min_confidence=0.9)
    assert nested.count == 6
    assert nested.hierarchy is not None
    assert nested.hierarchy.answers is not None
    assert nested.hierarchy.answers.min_confidence == 0.9
    done = regraft("evaluate", tree_run.path, more, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["hierarchy"]["f1"] == nested.hierarchy.f1
    with pytest.raises(UsageError, match="has no tree of classes"):
        library.evaluate(tree_run.predictions, min_confidence=0.5)


def test_a_run_grows_within_its_tree(tree_run: library.Run, write_squares: WriteSquares, tmp_path: Path) -> None:
    grown_folder = write_squares(tmp_path / "more", {"warm/yellow": (240, 230, 30), "cold/navy": (10, 10, 90)}, 6)
    options = ("--from", tree_run.path, "--epochs", 0, "--layout", "auto")
    done = regraft("train", grown_folder, *options, "--out", tmp_path / "grown")
    assert done.returncode == 0, done.stderr
    grown = library.load(tmp_path / "grown")
    assert grown.classes == ("blue", "green", "navy", "orange", "red", "yellow")
    assert grown.taxonomy is not None
    assert grown.taxonomy.lineage("yellow") == ("warm", "yellow")
    read = images_of(grown)
    assert read is not None
    assert all(read(row["path"]) for row in split_rows(grown.path))
    assert len(held_out(grown)) == len(grown.predictions_of())
    pink = write_squares(tmp_path / "pink", {"warm/pink": (240, 150, 160)}, 6)
    done = regraft("train", pink, "--from", grown.path, "--epochs", 0, "--out", tmp_path / "again")
    assert done.returncode == 0, done.stderr
    assert len(list(split_rows(tmp_path / "again"))) == 40 + 2 * 6 + 6
    flat = write_squares(tmp_path / "flat", {"pink": (240, 150, 160), "red": RED}, 3)
    done = regraft(
        "train", flat, "--from", tree_run.path, "--epochs", 0, "--layout", "classes", "--out", tmp_path / "none"
    )
    assert done.returncode == 1
    assert "pink is not in it" in done.stderr
    assert "--taxonomy" in done.stderr


def test_changed_classes_keep_their_place_in_the_tree(tree_run: library.Run, tmp_path: Path) -> None:
    renamed = library.change_classes(tree_run, rename={"red": "crimson"}, out=tmp_path / "renamed")
    assert renamed.taxonomy is not None
    assert renamed.taxonomy.parents == {
        "blue": "cold", "cold": None, "crimson": "warm", "green": "cold", "orange": "warm", "warm": None,
    }  # fmt: skip
    assert renamed.metrics["test"]["hierarchy"]["f1"] == pytest.approx(tree_run.metrics["test"]["hierarchy"]["f1"])
    merged = library.change_classes(tree_run, merge={"cold": ["blue", "green"]}, out=tmp_path / "merged")
    assert merged.taxonomy is not None
    assert merged.taxonomy.parents == {"cold": None, "orange": "warm", "red": "warm", "warm": None}
    with pytest.raises(UsageError, match="mixed has no place in the tree: blue in cold, red in warm"):
        library.change_classes(tree_run, merge={"mixed": ["blue", "red"]}, out=tmp_path / "none")
    with pytest.raises(UsageError, match="cold is above green in the tree"):
        library.change_classes(tree_run, rename={"blue": "cold"}, out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_file_gives_the_tree_and_its_path_stays_right(tree_folder: Path, tmp_path: Path, monkeypatch) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for folder in tree_folder.glob("*/*"):
        (flat / folder.name).symlink_to(folder)
    (tmp_path / "tree.csv").write_text("color,kind\nred,warm\norange,warm\nblue,cold\ngreen,cold\n")
    monkeypatch.chdir(tmp_path)
    run = train_from("flat", load_config(overrides={**HEAD, "data.taxonomy": "tree.csv"}), "run")
    assert run.taxonomy == Taxonomy.of({"red": "warm", "orange": "warm", "blue": "cold", "green": "cold"})
    assert load_config(Path("run/config.toml")).data.taxonomy == str(tmp_path / "tree.csv")
    (tmp_path / "tree.csv").write_text("color,kind\nred,warm\norange,warm\nblue,cold\n")
    with pytest.raises(DataError, match="green is not in it"):
        train_from("flat", load_config(overrides={**HEAD, "data.taxonomy": "tree.csv"}), "other")


def test_the_documents_have_the_metrics_of_the_tree(tree_run: library.Run, tmp_path: Path) -> None:
    assert "under a tree of classes." in check_documents(tree_run, tmp_path)["datasheet"]


def test_inspect_and_split_keep_the_tree(tree_folder: Path, tmp_path: Path) -> None:
    done = regraft("split", tree_folder, tmp_path / "parts", "--layout", "tree")
    assert done.returncode == 0, done.stderr
    assert csv_rows(tmp_path / "parts" / "split.csv")[0]["path"].count("/") == 3
    again = library.scan(tmp_path / "parts", layout="tree")
    assert again.taxonomy == library.scan(tree_folder, layout="tree").taxonomy
    done = regraft(
        "inspect", tree_folder, "--layout", "tree", "--no-labels", "--out", tmp_path / "inspect.html", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["statistics"]["tree"] == [
        {"name": "cold", "level": 1, "images": 20}, {"name": "blue", "level": 2, "images": 10},
        {"name": "green", "level": 2, "images": 10}, {"name": "warm", "level": 1, "images": 20},
        {"name": "orange", "level": 2, "images": 10}, {"name": "red", "level": 2, "images": 10},
    ]  # fmt: skip
    assert "A tree of 2 levels: 4 classes under 2 nodes." in (tmp_path / "inspect.html").read_text()
    done = regraft("inspect", tree_folder, "--layout", "tree", "--no-labels", "--out", tmp_path / "inspect.html")
    assert "\n  warm           20" in done.stdout
    assert "\n    red          10" in done.stdout


def test_clean_writes_the_tree_beside_the_manifest(tree_folder: Path, tmp_path: Path) -> None:
    root = shutil.copytree(tree_folder, tmp_path / "colors")
    (root / "warm/red/broken.png").write_bytes(b"no image")
    done = regraft("clean", root, "--layout", "tree", "--drop", "unreadable", "--out", tmp_path / "clean.csv")
    assert done.returncode == 0, done.stderr
    cleaned = library.scan(tmp_path / "clean.csv", taxonomy=tmp_path / "clean.taxonomy.json")
    assert cleaned.taxonomy == library.scan(tree_folder, layout="tree").taxonomy
    assert "--taxonomy" in done.stdout


def test_cross_validation_measures_under_the_tree(tree_folder: Path) -> None:
    config = load_config(overrides={"data.layout": "tree", "model.image_size": 32})
    result = library.cross_validate(tree_folder, k=2, config=config)
    assert result.evaluation.hierarchy is not None
    assert result.evaluation.hierarchy.f1 >= result.evaluation.accuracy
