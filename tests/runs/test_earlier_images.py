"""Runs that grow: the images of the earlier run train beside new ones, and keep their parts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from run_documents import check_documents
from terminal import csv_rows

import regraft as library
from regraft.config import load_config
from regraft.errors import DataError, UsageError
from regraft.runs.earlier_images import scan_with_earlier, with_decision
from regraft.runs.resume import resume
from regraft.runs.run_images import held_out, images_of
from regraft.runs.train import train_from
from regraft.training.callbacks import NullReporter


class Messages(NullReporter):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def on_message(self, text: str) -> None:
        self.texts.append(text)


def settings(run: library.Run, **more: Any) -> dict[str, Any]:
    return {"run.from_run": str(run.path), "training.finetune_epochs": 0, "training.views": 1} | {
        key.replace("__", "."): value for key, value in more.items()
    }


@pytest.fixture(scope="module")
def grown(squares_run: library.Run, yellow_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> library.Run:
    """A run that has learned yellow from a folder of nothing else."""
    out = tmp_path_factory.mktemp("grown") / "run"
    return train_from(yellow_folder, load_config(overrides=settings(squares_run)), out)


def test_the_documents_name_the_earlier_run(squares_run: library.Run, grown: library.Run, tmp_path: Path) -> None:
    documents = check_documents(grown, tmp_path)
    assert f"The training started from the run {squares_run.path.name}." in documents["annex-iv"]
    assert "Compared with the run run on 9 test images of both: accuracy" in documents["annex-iv"]


def test_a_class_is_added_and_the_others_stay(squares_run: library.Run, grown: library.Run) -> None:
    assert grown.classes == ("blue", "green", "red", "yellow")
    parts = {row["sha256"]: (row["label"], row["part"]) for row in csv_rows(squares_run.path / "split.csv")}
    rows = csv_rows(grown.path / "split.csv")
    assert {row["sha256"]: (row["label"], row["part"]) for row in rows if row["path"].startswith("earlier/")} == parts
    new = [row for row in rows if not row["path"].startswith("earlier/")]
    assert len(new) == 8
    assert {row["part"] for row in new} == {"train", "val", "test"}
    assert grown.metrics["data"]["counts"]["train"] == {
        "blue": 6, "green": 6, "red": 6, "yellow": sum(row["part"] == "train" for row in new)
    }  # fmt: skip
    comparison = grown.metrics["earlier_run"]["comparison"]
    assert (comparison["part"], comparison["count"]) == ("test", 9)
    assert comparison["before"] == squares_run.metrics["test"]["accuracy"]
    assert [row["name"] for row in comparison["classes"]] == ["blue", "green", "red"]
    assert "Compared with the earlier run" in (grown.path / "report.html").read_text()


def test_a_student_of_a_grown_run_needs_all_images_in_one_place(grown: library.Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"images of earlier runs beside those of .* --data DATA"):
        library.distill(grown, into="lcnet_050", out=tmp_path / "student")
    assert not (tmp_path / "student").exists()


def test_the_images_of_a_grown_run_are_read_again(grown: library.Run) -> None:
    source = images_of(grown)
    assert source is not None
    for row in csv_rows(grown.path / "split.csv"):
        assert source(row["path"])
    assert len(held_out(grown)) == grown.metrics["test"]["count"]


def test_a_grown_run_grows_and_is_resumed(
    grown: library.Run, squares_folder: Path, tmp_path: Path, yellow_folder: Path
) -> None:
    folder = tmp_path / "again"
    shutil.copytree(yellow_folder, folder)
    for file in (folder / "yellow").iterdir():
        pixels = np.array(Image.open(file))[::-1, ::-1, ::-1]  # other pictures, whose squares are cyan
        Image.fromarray(pixels).save(file)
    (folder / "yellow").rename(folder / "cyan")
    config = load_config(overrides=settings(grown))

    class Killer(NullReporter):
        def on_head_path(self, path: Any) -> None:
            raise MemoryError

    with pytest.raises(MemoryError):
        train_from(folder, config, tmp_path / "killed", reporter=Killer())
    run = resume(tmp_path / "killed")
    assert run.classes == ("blue", "cyan", "green", "red", "yellow")
    origin = json.loads((run.path / "source.json").read_text())["earlier"]
    assert (origin["data"], origin["earlier"]["data"]) == (str(yellow_folder), str(squares_folder))
    names = [row["path"] for row in csv_rows(run.path / "split.csv")]
    assert sum(name.startswith("earlier/earlier/") for name in names) == 36
    assert len(names) == 36 + 8 + 8


def test_data_with_some_of_the_images_is_all_there_is(
    squares_run: library.Run, squares_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "fewer"
    shutil.copytree(squares_folder, folder)
    shutil.rmtree(folder / "green")
    messages = Messages()
    config = with_decision(load_config(overrides=settings(squares_run)), folder, messages)
    assert config.run.keep_images == "none"
    assert "has 24 of the 36 images" in messages.texts[0]
    asked = load_config(overrides=settings(squares_run, run__keep_images="all"))
    dataset, _ = scan_with_earlier(with_decision(asked, folder, messages), folder, None, messages)
    assert (len(dataset), dataset.counts()["green"]) == (36, 12)


def test_images_that_are_gone_or_changed_are_said(
    squares_run: library.Run, squares_folder: Path, yellow_folder: Path, tmp_path: Path
) -> None:
    data, run = tmp_path / "squares", tmp_path / "run"
    shutil.copytree(squares_folder, data)
    shutil.copytree(squares_run.path, run)
    (run / "source.json").write_text(json.dumps({"data": str(data)}))
    (run / "exemplars.safetensors").unlink()
    (data / "red" / "00.png").unlink()
    shutil.copyfile(data / "red" / "02.png", data / "red" / "01.png")
    config, messages = load_config(overrides=settings(library.load(run))), Messages()
    decided = with_decision(config, yellow_folder, messages)
    dataset, _ = scan_with_earlier(decided, yellow_folder, None, messages)
    assert dataset.counts()["red"] == 10
    assert dataset.notes[-1].startswith("2 of 36 images of ")
    for file in (data / "red").glob("*.png"):
        file.unlink()
    with pytest.raises(DataError, match="red"):
        scan_with_earlier(decided, yellow_folder, None, messages)
    shutil.rmtree(data)
    assert with_decision(config, yellow_folder, messages).run.keep_images == "none"
    assert "learns from the new ones alone" in messages.texts[-1]
    with pytest.raises(UsageError, match="cannot be read"):
        with_decision(
            load_config(overrides=settings(library.load(run), run__keep_images="all")), yellow_folder, messages
        )


def test_settings_without_an_earlier_run_are_refused(yellow_folder: Path) -> None:
    for name, value in (("run.keep_images", "all"), ("run.class_changes", ("a=b",))):
        with pytest.raises(UsageError, match=f"{name} needs a run to start from"):
            with_decision(load_config(overrides={name: value}), yellow_folder, NullReporter())


def test_a_new_folder_named_earlier_is_refused(squares_run: library.Run, yellow_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(yellow_folder / "yellow", tmp_path / "data" / "earlier")
    config = with_decision(load_config(overrides=settings(squares_run)), tmp_path / "data", NullReporter())
    with pytest.raises(UsageError, match="Rename the folder"):
        scan_with_earlier(config, tmp_path / "data", None, NullReporter())
