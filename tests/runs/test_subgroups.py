import csv
import json
import shutil
from pathlib import Path

import pytest
from run_documents import check_documents
from terminal import regraft as regraft_command

import regraft
from regraft.config import load_config
from regraft.errors import UsageError
from regraft.runs.train_from import train_from

HEAD_ONLY = {"model.image_size": 32, "training.finetune_from": "none", "training.views": 1}


@pytest.fixture
def table(squares_folder: Path, tmp_path: Path) -> Path:
    """A manifest of the squares with a camera for each image."""
    files = sorted(squares_folder.glob("*/*.png"))
    with (tmp_path / "squares.csv").open("w", newline="") as text:
        rows = csv.writer(text)
        rows.writerow(("path", "label", "camera"))
        rows.writerows((file, file.parent.name, "AB"[i // 2 % 2]) for i, file in enumerate(files))
    return tmp_path / "squares.csv"


def test_a_column_of_the_table_divides_the_test_images(table: Path, tmp_path: Path) -> None:
    run = train_from(
        table, load_config(overrides={**HEAD_ONLY, "data.test": 0.4, "data.by": ("camera",)}), tmp_path / "run"
    )
    (stored,) = run.metrics["test"]["subgroups"]
    assert {group["value"] for group in stored["groups"]} == {"A", "B"}
    assert sum(group["count"] for group in stored["groups"]) == run.metrics["test"]["count"]
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "By camera, the worst first" in page
    assert "<h3>By <bdi>camera</bdi></h3>" in page
    for group in stored["groups"]:
        score = group["scores"]["accuracy"]
        low, high = (f"{100 * bound:.1f}" for bound in score["interval"])
        assert f'{100 * score["value"]:.1f}\N{NO-BREAK SPACE}% <span class="within">{low} to {high}</span>' in page
    card = (run.path / "MODEL_CARD.md").read_text(encoding="utf-8")
    for group in stored["groups"]:
        score = group["scores"]["accuracy"]
        low, high = (f"{100 * bound:.1f}" for bound in score["interval"])
        assert f"| {group['value']} | {group['count']} | {100 * score['value']:.1f} % ({low} to {high}) |" in card
    assert check_documents(run, tmp_path)["model-card"] == card
    again = regraft.evaluate(run, by="camera").subgroups[0]
    assert again.to_json() == stored
    assert regraft.evaluate(run).subgroups == (again,)
    (given,) = regraft.evaluate(run, table, by="camera").subgroups
    assert sum(group.count for group in given.groups) == len(regraft.scan(table, near_duplicates=False))
    with pytest.raises(regraft.RegraftError, match="no column 'lens'"):
        regraft.evaluate(run, table, by="lens")
    shutil.move(table, tmp_path / "moved.csv")
    with pytest.raises(UsageError, match="is not where it was"):
        regraft.evaluate(run, by="camera")
    done = regraft_command("evaluate", run.path, tmp_path / "moved.csv", "--by", "camera", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["subgroups"][0]["by"] == "camera"


def test_a_run_that_follows_another_has_its_subgroups(table: Path, yellow_folder: Path, tmp_path: Path) -> None:
    options = {**HEAD_ONLY, "data.test": 0.4}
    first = train_from(table, load_config(overrides={**options, "data.by": ("camera",)}), tmp_path / "first")
    renamed = regraft.change_classes(first, rename={"blue": "azure"}, out=tmp_path / "renamed")
    assert renamed.metrics["test"]["subgroups"] == first.metrics["test"]["subgroups"]
    more = tmp_path / "more.csv"
    with more.open("w", newline="") as text:
        rows = csv.writer(text)
        rows.writerow(("path", "label", "camera"))
        rows.writerows((file, "yellow", "C") for file in sorted(yellow_folder.glob("*/*.png")))
    grown = train_from(more, load_config(overrides={"run.from_run": str(first.path)}), tmp_path / "grown")
    (stored,) = grown.metrics["test"]["subgroups"]
    assert {group["value"] for group in stored["groups"]} == {"A", "B", "C"}
    assert stored["without_value"] == 0
    assert regraft.evaluate(grown, by="camera").subgroups[0].to_json() == stored
    shutil.move(table, tmp_path / "moved.csv")
    (left,) = regraft.evaluate(grown, by="camera").subgroups
    assert left.without_value == sum(group["count"] for group in stored["groups"] if group["value"] != "C")
    with pytest.raises(regraft.RegraftError, match="no column 'lens'"):
        regraft.evaluate(grown, by="lens")
    merged = regraft.change_classes(first, merge={"cold": ["blue", "green"]}, out=tmp_path / "merged")
    assert "subgroups" not in merged.metrics["test"]  # features replace the images, and the table had the cameras


def test_a_pattern_needs_no_images(squares_run: regraft.Run, tmp_path: Path) -> None:
    shutil.copytree(squares_run.path, tmp_path / "run")
    (tmp_path / "run" / "source.json").write_text(json.dumps({"data": str(tmp_path / "gone")}))
    expected = regraft.evaluate(squares_run, by="(red|blue)/").subgroups
    assert {group.value for group in expected[0].groups} == {"red", "blue"}
    assert regraft.evaluate(tmp_path / "run", by="(red|blue)/").subgroups == expected
