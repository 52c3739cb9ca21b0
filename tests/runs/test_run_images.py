"""Reading the images of a run, which may have moved or changed, and its most confident errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import regraft
from regraft.errors import DataError, ImageError, RunError, UsageError
from regraft.runs.run_images import held_out, images_of
from regraft.runs.top_losses import top_losses


@pytest.fixture
def moved(squares_run: regraft.Run, squares_folder: Path, tmp_path: Path) -> tuple[regraft.Run, Path]:
    """A copy of a run whose images have moved, and their new place."""
    run, data = tmp_path / "run", tmp_path / "data"
    shutil.copytree(squares_run.path, run)
    shutil.copytree(squares_folder, data)
    (run / "source.json").write_text(json.dumps({"data": str(tmp_path / "gone")}))
    return regraft.load(run), data


def test_only_unchanged_images_are_read(moved: tuple[regraft.Run, Path]) -> None:
    run, data = moved
    assert images_of(run) is None
    source = images_of(run, data)
    assert source is not None
    first, second = run.predictions_of("test").ids[:2]
    assert source(first) == (data / first).read_bytes()
    shutil.copy(data / second, data / first)
    with pytest.raises(ImageError, match="the image has changed"):
        source(first)
    with pytest.raises(ImageError, match="not in the data"):
        source("red/99.png")
    (run.path / "source.json").write_text("[]")
    with pytest.raises(RunError, match="Restore or delete it"):
        images_of(run)


def test_the_test_images_are_found_in_their_data(squares_run: regraft.Run, moved: tuple[regraft.Run, Path]) -> None:
    assert {sample.path for sample in held_out(squares_run).samples} == set(squares_run.predictions_of("test").ids)
    run, data = moved
    with pytest.raises(UsageError, match="gone does not exist"):
        held_out(run)
    (run.path / "source.json").write_text(json.dumps({"data": str(data)}))
    (data / run.predictions_of("test").ids[0]).unlink()
    with pytest.raises(DataError, match=r"1 of the 9 images in .* are missing"):
        held_out(run)


def test_errors_are_the_most_confident_first(moved: tuple[regraft.Run, Path]) -> None:
    run, data = moved
    file = run.path / "predictions.csv"
    header, *rows = file.read_text().splitlines()
    names = header.split(",")
    label, first = names.index("label"), names.index("p(blue)")
    wrong: list[str] = []
    for number, row in enumerate(rows):  # two test images of another class are predicted as blue
        cells = row.split(",")
        if cells[names.index("part")] == "test" and cells[label] != "blue" and len(wrong) < 2:
            wrong.append(cells[0])
            cells[names.index("predicted")], cells[first : first + 3] = "blue", [f"0.{8 + len(wrong) - 1}", "0.1", "0"]
            cells[first + 1] = str(round(1 - float(cells[first]), 6))
            rows[number] = ",".join(cells)
    file.write_text("\n".join([header, *rows]) + "\n")
    run = regraft.load(run.path)
    part = run.predictions_of("test")
    losses = top_losses(run, 100, data)
    assert [loss.path for loss in losses][:1] == [wrong[1]]
    assert set(wrong) <= {loss.path for loss in losses}
    assert len(losses) == np.sum(part.predicted != part.labels)
    assert [loss.content for loss in losses] == [(data / loss.path).read_bytes() for loss in losses]
    assert len(top_losses(run, 1, data)) == 1
    with pytest.raises(UsageError, match="cannot be found"):
        top_losses(run, 1)
