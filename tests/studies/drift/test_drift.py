"""New pictures are compared with validation, whatever the task, and those that do not count are left out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import regraft
from regraft.errors import DataError, UsageError
from regraft.studies.drift import pictures as opening
from regraft.studies.drift.reference import validation_of
from regraft.training.callbacks import NullReporter

COLORS = {"blue": (30, 60, 220), "green": (40, 200, 60), "red": (220, 40, 30)}


@pytest.fixture(scope="module")
def squares_run(write_squares: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> regraft.Run:
    """A head on squares of three colors, with 36 validation images."""
    from regraft.config import load_config
    from regraft.runs.train import train_from

    place = tmp_path_factory.mktemp("drift")
    folder = write_squares(place / "squares", COLORS, count=30)
    options = {"model.image_size": 32, "training.finetune_epochs": 0, "data.val": 0.4, "data.test": 0.1}
    return train_from(folder, load_config(overrides=options), place / "run")


@pytest.fixture(scope="module")
def same(write_squares: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """New squares of the same kind."""
    return write_squares(tmp_path_factory.mktemp("same") / "new", COLORS, count=12, seed=9)


@pytest.fixture(scope="module")
def dark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dark blocks, which are no squares."""
    folder, rng = tmp_path_factory.mktemp("other"), np.random.default_rng(5)
    for i in range(30):
        image = np.kron(rng.integers(0, 90, (8, 8, 3)), np.ones((4, 4, 1), int))
        Image.fromarray(image.astype(np.uint8)).save(folder / f"{i:02d}.png")
    return folder


def test_the_same_kind_is_no_drift_and_another_one_is(squares_run: regraft.Run, same: Path, dark: Path) -> None:
    found = regraft.drift(squares_run, same)
    assert not found.changes.is_drift, str(found)
    assert {one.test for one in found.changes.tests} == {"distance", "strange", "features", "confidence", "classes"}
    found = regraft.drift(squares_run.path, dark)
    assert found.changes.has_changed("inputs")
    assert found.changes.p_value("inputs") < 0.001  # type: ignore[operator]  # it was tested
    assert len(found.label_next) == 20


def test_results_are_written(squares_run: regraft.Run, dark: Path, tmp_path: Path) -> None:
    found = regraft.drift(squares_run, dark, label_count=4)
    files = found.write(tmp_path / "out")
    assert [file.name for file in files] == ["drift.json", "label_next.csv", "strangest.png"]
    value = json.loads(files[0].read_text())
    assert value["drift"] is True
    assert value["strangest"][0]["path"] == found.strangest[0].name
    assert Path(found.strangest[0].name).parent == dark
    rows = files[1].read_text().splitlines()
    assert rows[0] == "path,reason,answer,confidence,ood_p_value"
    assert len(rows) == 5
    with Image.open(files[2]) as sheet:
        assert min(sheet.size) > 500
    replace(found, label_next=(), strangest=()).write(tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["drift.json"]


def test_earlier_pictures_are_the_reference(squares_run: regraft.Run, same: Path, dark: Path) -> None:
    found = regraft.drift(squares_run, dark, against=dark)
    assert not found.changes.is_drift
    assert found.changes.reference_pictures == 30
    found = regraft.drift(squares_run, same, against=dark)
    assert "Inputs" in found.changes.verdict
    assert "have changed against the earlier pictures" in found.changes.verdict


def test_what_does_not_count_is_left_out_and_said(squares_run: regraft.Run, same: Path, tmp_path: Path) -> None:
    shutil.copytree(same, tmp_path / "new")
    for i in range(5):
        shutil.copy(same / "red" / "0.png", tmp_path / "new" / f"copy{i}.png")
    rows = [line.split(",") for line in (squares_run.path / "split.csv").read_text().splitlines()]
    header, source = rows[0], Path(json.loads((squares_run.path / "source.json").read_text())["data"])
    trained = [row[header.index("path")] for row in rows[1:] if row[header.index("part")] == "train"]
    for i, name in enumerate(trained[:3]):
        shutil.copy(source / name, tmp_path / "new" / f"trained{i}.png")
    (tmp_path / "new" / "broken.png").write_bytes(b"no image")
    found = regraft.drift(squares_run, tmp_path / "new")
    assert found.changes.pictures == 36
    assert found.unreadable[0][0] == "broken.png"
    text = " ".join(found.notes)
    for words in ("trained on them: 3 pictures", "near duplicates of others: 5 pictures", "1 file cannot be read"):
        assert words in text
    only = tmp_path / "only"
    only.mkdir()
    shutil.copy(source / trained[0], only / "a.png")
    with pytest.raises(DataError, match=r"has no picture to compare\. Not compared, because the run was trained"):
        regraft.drift(squares_run, only)


def test_one_picture_of_a_group_counts(squares_run: regraft.Run, same: Path) -> None:
    found = regraft.drift(squares_run, same, group_by=r"(\d+)\.png")
    assert found.changes.pictures == 12
    assert "or of a group with others: 24 pictures" in " ".join(found.notes)
    assert found.changes.are_few


def test_a_part_of_very_many_is_drawn(squares_run: regraft.Run, same: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "MAX_PICTURES", 10)
    found = regraft.drift(squares_run, same)
    assert found.changes.pictures == 10
    assert "10 of 36 pictures are compared, drawn at random." in found.notes


def test_features_of_validation_are_kept_or_read_again(squares_run: regraft.Run, tmp_path: Path) -> None:
    shutil.copytree(squares_run.path, tmp_path / "run")
    kept, notes = validation_of(regraft.load(tmp_path / "run"), NullReporter(), features=True)
    (tmp_path / "run" / "exemplars.safetensors").unlink()
    again, _ = validation_of(regraft.load(tmp_path / "run"), NullReporter(), features=True)
    assert notes == []
    assert kept.features is not None
    assert again.features is not None
    assert kept.features.shape == again.features.shape == (36, kept.features.shape[1])
    assert np.sort(kept.features.sum(axis=1)) == pytest.approx(np.sort(again.features.sum(axis=1)), rel=0.02)
    (tmp_path / "run" / "source.json").write_text('{"data": "/nowhere"}')
    found, notes = validation_of(regraft.load(tmp_path / "run"), NullReporter(), features=True)
    assert found.features is None
    assert found.distances is not None
    assert "Features are not compared" in notes[0]


def test_several_labels(several_run: regraft.Run, dark: Path) -> None:
    found = regraft.drift(several_run, dark)
    assert found.changes.has_changed("inputs")
    assert {one.test for one in found.changes.tests} >= {"labels", "distance", "features"}


def test_numbers(numbers_run: regraft.Run, dark: Path) -> None:
    found = regraft.drift(numbers_run, dark)
    assert found.changes.is_drift
    assert {one.test for one in found.changes.tests} >= {"value", "distance"}
    assert found.label_next[0].confidence is None


def test_wrong_requests_are_refused(squares_run: regraft.Run, same: Path, tmp_path: Path) -> None:
    for arguments, words in (
        ({"alpha": 0.0}, "alpha = 0; expected"),
        ({"label_count": -1}, "label_count = -1; expected"),
        ({"since": datetime(2026, 1, 1)}, "is no log of answers"),
    ):
        with pytest.raises(UsageError, match=words):
            regraft.drift(squares_run, same, **arguments)  # type: ignore[arg-type]  # of several types
    with pytest.raises(UsageError, match="does not exist"):
        regraft.drift(squares_run, tmp_path / "nothing")
    shutil.copytree(squares_run.path, tmp_path / "run")
    description = json.loads((tmp_path / "run" / "model.json").read_text())
    (tmp_path / "run" / "model.json").write_text(json.dumps({**description, "pool_by": "patient"}))
    with pytest.raises(UsageError, match="is for runs that answer each image"):
        regraft.drift(tmp_path / "run", same)
