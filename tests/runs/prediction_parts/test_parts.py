"""Predictions in a folder of parts, computed in this process; tests/cluster has a cluster."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from filelock import FileLock
from PIL import Image

import regraft
from regraft.data.sources.folders import find_images
from regraft.errors import DataError, RunError, UsageError
from regraft.models.rejection import RejectionPolicy
from regraft.runs.prediction_parts.parts import Listing, Parts, PartsOptions, predict_parts


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Thirty PNG files and one that is no image."""
    folder = tmp_path_factory.mktemp("images")
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3), np.uint8)):
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    (folder / "broken.png").write_bytes(b"nothing")
    return find_images(folder)[0]


def predict(run: regraft.Run, files: list[Path], out: Path, **options: Any) -> Parts:
    options = {"part_size": 2, **options}  # at most 8, at least 1: where a part ends depends on the names
    return predict_parts(run.path, Listing.of_files(files), out, PartsOptions(**options), described={"of": "test"})


def rows_of(parts: Parts) -> list[dict[str, Any]]:
    """The rows of all parts in order, those of CSV with texts."""
    return [row for part in parts.parts for row in rows_in(part.file)]


def rows_in(file: Path) -> list[dict[str, Any]]:
    """The rows of one file."""
    if file.suffix == ".parquet":
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(file).to_pylist()
        return rows
    lines = file.read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(lines)) if file.suffix == ".csv" else list(map(json.loads, lines))


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_every_image_has_one_row_with_its_prediction(squares_run, images, tmp_path, kind) -> None:
    policy = RejectionPolicy(min_confidence=0.5, min_probability=0.2)
    parts = predict(squares_run, images, tmp_path / "out", format=kind, policy=policy)
    # In the same batches, because others round otherwise.
    expected = [
        one for part in parts.parts for one in regraft.predict(squares_run, [row["path"] for row in rows_in(part.file)])
    ]
    rows = rows_of(parts)
    assert [row["path"] for row in rows] == [str(image) for image in images]
    assert len(parts.parts) > 2
    assert parts.images == 31
    assert [name for name, _ in parts.unreadable] == [str(images[-1])]
    for row, prediction in zip(rows[:-1], expected[:-1], strict=True):
        assert row["label"] == prediction.label
        assert float(row["confidence"]) == pytest.approx(prediction.confidence, abs=1e-6)
        assert row["accepted"] in (prediction.confidence >= 0.5, "yes" if prediction.confidence >= 0.5 else "no")
        if kind != "jsonl":
            probabilities = [float(row[f"p({name})"]) for name in prediction.classes]
            assert probabilities == pytest.approx(prediction.probabilities, abs=1e-6)
    assert rows[-1]["error"] == expected[-1].error
    summary = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [part["images"] for part in summary["parts"]] == [part.images for part in parts.parts]


def test_a_later_call_computes_what_is_missing_or_has_changed(squares_run, images, tmp_path) -> None:
    files = [Path(shutil.copy(image, tmp_path)) for image in images[:30]]
    first = predict(squares_run, files, tmp_path / "out")
    assert predict(squares_run, files, tmp_path / "out").computed == 0
    first.parts[1].file.unlink()
    Image.new("RGB", (40, 40)).save(files[0])
    again = predict(squares_run, files, tmp_path / "out")
    assert again.computed == 2
    files.pop(15)  # in the middle: the parts before and after it stay
    fewer = predict(squares_run, files, tmp_path / "out")
    assert fewer.computed < len(fewer.parts)
    assert [row["path"] for row in rows_of(fewer)] == [str(file) for file in files]
    assert len(list((tmp_path / "out").glob("part-*"))) == len(fewer.parts)


def test_a_failure_leaves_the_parts_that_are_finished(squares_run, images, tmp_path, monkeypatch) -> None:
    from regraft.runs.prediction_parts import parts as module

    written: list[Path] = []
    write = module.write_rows

    def fail(file: Path, *arguments: Any, **options: Any) -> None:
        if written:
            raise OSError(28, "No space left on device", str(file))
        write(file, *arguments, **options)
        written.append(file)

    monkeypatch.setattr(module, "write_rows", fail)
    with pytest.raises(OSError, match="No space"):
        predict(squares_run, images, tmp_path / "out")
    monkeypatch.setattr(module, "write_rows", write)
    again = predict(squares_run, images, tmp_path / "out")
    assert again.computed == len(again.parts) - 1


def test_other_settings_and_other_folders_are_refused(squares_run, images, tmp_path) -> None:
    predict(squares_run, images[:4], tmp_path / "out")
    with pytest.raises(UsageError, match="predictions that differ in tta"):
        predict(squares_run, images[:4], tmp_path / "out", tta="flip")
    with pytest.raises(UsageError, match="contains no predictions"):
        predict(squares_run, images[:4], squares_run.path)
    with pytest.raises(DataError, match="no images"):
        predict(squares_run, [], tmp_path / "none")
    with pytest.raises(UsageError, match="expected one of parquet, csv, jsonl"):
        PartsOptions(format="xlsx")  # type: ignore[arg-type]
    assert not (tmp_path / "none").exists()


def test_two_processes_do_not_write_into_one_folder(squares_run, images, tmp_path) -> None:
    predict(squares_run, images[:4], tmp_path / "out")
    with FileLock(tmp_path / "out" / ".lock"), pytest.raises(RunError, match="Another process predicts into"):
        predict(squares_run, images[:4], tmp_path / "out")


def test_an_evaluation_from_parts_is_the_same(squares_run, squares_folder, tmp_path) -> None:
    here = regraft.evaluate(squares_run, squares_folder)
    assert regraft.evaluate(squares_run, squares_folder, out=tmp_path / "out").to_json() == here.to_json()
    with pytest.raises(UsageError, match="cluster= needs out="):
        regraft.evaluate(squares_run, squares_folder, cluster="local")


def test_a_call_that_wrote_nothing_leaves_the_folder_for_other_settings(
    squares_run, images, tmp_path, monkeypatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RunError("no")

    with monkeypatch.context() as patch:
        patch.setattr("regraft.runs.prediction_parts.parts.predict_part", fail)
        with pytest.raises(RunError):
            predict(squares_run, images, tmp_path / "out")
    assert predict(squares_run, images, tmp_path / "out", format="csv").images == 31


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no names of any bytes")
def test_a_name_of_any_bytes_is_written_with_escapes(squares_run, images, tmp_path) -> None:
    copies = [tmp_path / "images" / f"caf\udce9{number}.png" for number in range(2)]
    copies[0].parent.mkdir()
    shutil.copy(images[0], copies[0])
    copies[1].write_bytes(b"nothing")
    parts = predict(squares_run, copies, tmp_path / "out", format="csv")
    assert [row["path"] for row in rows_of(parts)] == [str(copy).replace("\udce9", "\\udce9") for copy in copies]
    assert [name for name, _ in predict(squares_run, copies, tmp_path / "out", format="csv").unreadable] == [
        str(copies[1]).replace("\udce9", "\\udce9")
    ]
