"""Cross-validation where groups of pictures get one answer each."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from terminal import csv_rows, regraft

from regraft.config import load_config
from regraft.data.scan import scan
from regraft.studies.cross_validation import cross_validate

WRONG = ("left-3", "right-5")


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 24 things with 1 to 3 pictures each, two of which have a wrong class, and one a number like it."""
    folder, rng = tmp_path_factory.mktemp("things"), np.random.default_rng(0)
    rows = [("path", "side", "bright", "thing")]
    for side, rgb in (("left", (220, 40, 30)), ("right", (30, 60, 220))):
        for number in range(12):
            thing, level = f"{side}-{number}", 20 + 15 * number
            label = side if thing not in WRONG else "right" if side == "left" else "left"
            bright = level + 600 * ((label if thing == WRONG[0] else side) == "right")
            for picture in range(1 + number % 3):
                pixels = rng.integers(0, 60, (32, 32, 3)) + level
                pixels[6:26, 6:26] = np.array(rgb) + rng.integers(-60, 60, (20, 20, 3))
                name = f"{thing}_{picture}.png"
                Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / name)
                rows.append((name, label, str(bright), thing))
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "table.csv"


def test_groups_are_counted_and_named_alike_everywhere(things: Path, tmp_path: Path) -> None:
    names = {row["thing"] for row in csv_rows(things)}
    done = regraft(
        "crossval", things, "--pool-by", "thing", "-k", 4, "--set", "data.label_column=side", "--set",
        "model.image_size=32", "--out", tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "on 24 groups of 1 to 3 pictures" in " ".join(done.stdout.split())
    assert {row["id"] for row in csv_rows(tmp_path / "out/predictions.csv")} == names
    suspects = csv_rows(tmp_path / "out/label_errors.csv")
    assert {row["group"] for row in suspects} == set(WRONG)
    assert all(row["first"] == f"{row['group']}_0.png" for row in suspects)
    stored = json.loads((tmp_path / "out/crossval.json").read_text())
    assert stored["groups"] == "24 groups of 1 to 3 pictures"
    assert [list(map(str, row.values())) for row in stored["label_errors"]] == [list(row.values()) for row in suspects]


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_other_tasks_name_groups_too(things: Path, tmp_path: Path, task: str) -> None:
    column = "side" if task == "multilabel" else "bright"
    # At 32 pixels the wrong labels are at the limit from which they are named, above it on some processors.
    config = load_config(overrides={"model.image_size": 64})
    dataset = scan(things, task=task, label_column=column, pool_by="thing")
    result = cross_validate(dataset, k=3, config=config, out=tmp_path / "out")
    names = {row["thing"] for row in csv_rows(things)}
    assert set(result.predictions.ids) == names
    assert repr(result).startswith(f"{type(result).__name__}(3 folds, 24 groups of 1 to 3 pictures")
    with (tmp_path / "out/label_errors.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert (header[0], header[-1]) == ("group", "first")
    assert WRONG[0] in {row[0] for row in rows}
    assert {row[0] for row in rows} <= names


def test_images_are_named_by_their_path(things: Path) -> None:
    dataset = scan(things, label_column="side")
    result = cross_validate(dataset, k=3, config=load_config(overrides={"model.image_size": 32}))
    assert result.predictions.ids == tuple(dataset.table.paths.tolist())
    assert repr(result).startswith(f"CrossValidation(3 folds, {len(dataset)} images")
    assert "groups" not in result.to_json()
    assert set(result.to_json()["label_errors"][0]) == {"path", "label", "looks_like", "probability"}
