"""A training from labeled images to a finished run, from Python."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import regraft
from regraft.config import load_config, load_run_config
from regraft.data.dataset import Dataset
from regraft.errors import Interrupted, RunError, UsageError
from regraft.runs.resume import resume
from regraft.runs.run_images import data_of, held_out
from regraft.runs.train import train_from
from regraft.training.callbacks import Epoch, NullReporter


def test_a_run_has_the_documented_files(squares_run: regraft.Run) -> None:
    names = {f.relative_to(squares_run.path).as_posix() for f in squares_run.path.rglob("*") if f.is_file()}
    assert {
        "model.safetensors", "model.json", "class_names.json", "config.toml", "source.json", "split.csv", "history.csv",
        "metrics.json", "predictions.csv", "report.html", "MODEL_CARD.md", "label_errors.csv",
        "plots/training_history.png", "plots/confusion_matrix.png", "plots/sample_predictions.png",
        "plots/reliability.png",
    } <= names  # fmt: skip
    assert not [name for name in names if name.startswith((".", "checkpoints"))]
    for plot in (squares_run.path / "plots").glob("*.png"):
        with Image.open(plot) as image:
            assert min(image.size) > 300


def test_another_process_gives_the_same_probabilities_after_a_move(
    squares_run: regraft.Run, squares_folder: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(squares_run.path, moved)
    stored = squares_run.predictions  # in the same batches, because others round otherwise
    files = [str(squares_folder / name) for name in stored.ids]
    code = (
        "import json, sys, regraft; "
        "print(json.dumps([p.probabilities.tolist() for p in regraft.load(sys.argv[1]).predict(sys.argv[2:])]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(moved), *files], capture_output=True, text=True, check=True)
    np.testing.assert_allclose(np.array(json.loads(done.stdout)), stored.probabilities, atol=1e-6)


def test_the_stored_configuration_reproduces_the_run(
    squares_run: regraft.Run, squares_folder: Path, tmp_path: Path
) -> None:
    again = train_from(squares_folder, load_config(squares_run.path / "config.toml"), tmp_path / "again")
    for part in ("train", "val", "test"):
        assert again.metrics[part] == squares_run.metrics[part]
    for name in ("predictions.csv", "split.csv", "model.safetensors"):
        assert (again.path / name).read_bytes() == (squares_run.path / name).read_bytes()


def test_arrays_in_a_notebook(squares: Dataset, tmp_path: Path) -> None:
    images: Any = [squares.source(s) for s in squares.samples]
    dataset = regraft.Dataset.from_arrays(images, [s.label for s in squares.samples])
    parts = regraft.split(dataset, train=0.5, val=0.25, test=0.25)
    model = regraft.build(classes=parts.classes, image_size=32)
    run = regraft.train(model, parts, out=tmp_path / "run", finetune_epochs=1, views=2, batch_size=8)
    config = load_config(run.path / "config.toml")
    assert (config.model.image_size, config.training.views, config.data.val) == (32, 2, 0.1)
    assert regraft.evaluate(run).accuracy > 0.6
    assert regraft.evaluate(model, parts).count == len(parts.test)
    assert regraft.evaluate(run, parts.train).count == len(parts.train)
    predictions = regraft.predict(run, images[:3])
    assert [p.label for p in predictions] == [p.label for p in regraft.predict(model, np.stack(images[:3]))]
    assert regraft.predict(run, images[0])[0].label == predictions[0].label


def test_a_run_that_is_killed_after_the_head_can_predict(
    squares_folder: Path, fast_settings: dict[str, Any], tmp_path: Path
) -> None:
    class Killer(NullReporter):
        def on_epoch_end(self, row: Epoch) -> None:
            if row.phase == "finetune":
                raise MemoryError  # as abrupt as Python can be; Ctrl-C is handled

    with pytest.raises(MemoryError):
        train_from(squares_folder, load_config(overrides=fast_settings), tmp_path / "run", reporter=Killer())
    run = regraft.load(tmp_path / "run")
    assert run.predict(squares_folder / "red" / "00.png")[0].error is None
    assert not (tmp_path / "run" / ".scratch").exists()
    with pytest.raises(RunError, match="stopped before the evaluation"):
        run.evaluate()


def test_nothing_is_left_of_a_request_that_cannot_work(squares_folder: Path, tmp_path: Path) -> None:
    for data, key in ((tmp_path / "nowhere", {}), (squares_folder, {"model.backbone": "resnet5"})):
        with pytest.raises(UsageError):
            train_from(data, load_config(overrides=key), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_too_few_images_for_a_part_are_reported(tmp_path: Path) -> None:
    messages: list[str] = []

    class Messages(NullReporter):
        def on_message(self, text: str) -> None:
            messages.append(text)

    rng = np.random.default_rng(0)
    for i in range(4):
        folder = tmp_path / "data" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    config = load_config(
        overrides={
            "model.image_size": 32, "training.finetune_from": "none", "training.views": 1, "data.val": 0,
            "data.test": 0.1,
        }
    )  # fmt: skip
    run = train_from(tmp_path / "data", config, tmp_path / "run", reporter=Messages())
    assert any("too few images (or groups) for a test part" in message for message in messages)
    assert "test" not in run.metrics
    with pytest.raises(RunError, match="has no validation or test images, so its model was not evaluated"):
        run.evaluate()
    assert "The run has no validation or test images" in (run.path / "report.html").read_text(encoding="utf-8")


def test_a_run_from_python_remembers_its_folder(
    squares_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(squares_folder.parent)
    split = regraft.split(regraft.scan(squares_folder.name), train=0.5, val=0.25, test=0.25)
    model = regraft.build(classes=split.classes, image_size=32)
    run = regraft.train(model, split, out=tmp_path / "run", finetune_epochs=0)
    monkeypatch.chdir(tmp_path)
    assert data_of(run) == str(squares_folder.resolve())
    assert len(held_out(run)) == len(split.test)
    (run.path / "metrics.json").unlink()
    with pytest.raises(RunError, match=r"started from Python .* Call regraft\.train again"):
        resume(run.path)


def test_a_training_from_python_says_what_the_command_says(
    squares_split: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    model = regraft.build(classes=squares_split.classes, image_size=32)
    model.weights = replace(model.weights, note="These weights are of another network.")
    monkeypatch.setattr("regraft.runs.train.train_into", interrupt)
    said: list[str] = []
    reporter = NullReporter()
    monkeypatch.setattr(reporter, "on_message", said.append)
    with pytest.raises(Interrupted, match=str(tmp_path)):
        regraft.train(model, squares_split, out=tmp_path / "run", reporter=reporter)
    assert "These weights are of another network." in said


def test_the_result_is_told_before_plots_and_report_are_made(squares_split: Any, tmp_path: Path) -> None:
    path, found = tmp_path / "run", dict[str, bool]()

    class Reporter(NullReporter):
        def on_message(self, text: str) -> None:
            if "classified correctly" in text:
                files = ("metrics.json", "predictions.csv", "plots", "report.html")
                found.update({file: (path / file).exists() for file in files})

    model = regraft.build(classes=squares_split.classes, image_size=32)
    regraft.train(model, squares_split, out=path, reporter=Reporter(), finetune_epochs=0)
    assert found == {"metrics.json": True, "predictions.csv": True, "plots": False, "report.html": False}
    assert (path / "report.html").exists()


def test_other_things_than_a_model_and_a_split_are_refused(squares: Dataset, tmp_path: Path) -> None:
    model: Any = regraft.build(classes=squares.classes, image_size=32, weights="none")
    with pytest.raises(UsageError, match="got Classifier and Dataset; expected"):
        regraft.train(model, squares, out=tmp_path / "run")  # type: ignore[arg-type]
    for wrong in (7, None, regraft.Run):
        with pytest.raises(UsageError, match="expected a run or its folder, a model"):
            regraft.predict(wrong, "a.jpg")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="The data is a list; expected a path"):
        regraft.evaluate(model, [])  # type: ignore[arg-type]
    for function in (regraft.scan, regraft.inspect, regraft.load, regraft.verify, regraft.split):
        for value in (None, 7, ["a"], b"a"):
            with pytest.raises(UsageError, match="expected"):
                function(value)  # type: ignore[operator]
    split = regraft.split(squares)
    with pytest.raises(UsageError, match=r"training\.finetune_epoch: no such setting; did you mean"):
        regraft.train(model, split, out=tmp_path / "run", finetune_epoch=1)


def test_a_preset_from_python_is_that_of_the_settings(squares_split: Any, tmp_path: Path) -> None:
    model = regraft.build("cnn", classes=squares_split.classes, weights="none", image_size=32)
    options: dict[str, Any] = {"preset": "Keras", "finetune_epochs": 0, "head_epochs": 1}
    run = regraft.train(model, squares_split, out=tmp_path / "run", schedule="cosine", **options)
    config = load_run_config(run.path / "config.toml")
    preset = load_config(overrides={"run.preset": "keras", "training.schedule": "cosine"})
    assert (config.run.preset, config.augmentation) == ("keras", preset.augmentation)
    planned = {"views": config.training.views, "prefix_backend": config.training.prefix_backend}
    assert config.training == replace(preset.training, finetune_epochs=0, head_epochs=1, **planned)
    assert [row["phase"] for row in run.history] == ["head"]
    with pytest.raises(UsageError, match=r"run.preset = 'kears'"):
        regraft.train(model, squares_split, out=tmp_path / "other", preset="kears")


def test_a_model_as_in_keras_trains_and_is_saved_whole(squares_folder: Path, tmp_path: Path) -> None:
    class Messages(NullReporter):
        def on_message(self, text: str) -> None:
            said.append(text)

    said: list[str] = []
    settings = {
        "run.preset": "keras", "model.image_size": 32, "model.pooling": "GlobalMaxPooling2D", "model.dropout": 0.3,
        "training.loss": "binary_crossentropy", "training.class_weights": {0: 1, "red": 3}, "training.batch_size": 8,
        "training.head_epochs": 2, "training.finetune_epochs": 1, "training.head_optimizer": "RMSprop",
    }  # fmt: skip
    run = train_from(squares_folder, load_config(overrides=settings), tmp_path / "run", reporter=Messages())
    plan = next(text for text in said if text.startswith("Plan: "))
    assert "the head trained for 2 epochs by rmsprop, 1 epoch of fine-tuning" in plan
    assert "Preset keras: head_stages last; flip, random_crop, color_jitter" in plan
    assert "Given instead of the preset's: training.head_optimizer = rmsprop." in plan
    assert [row["phase"] for row in run.history] == ["head", "head", "finetune"]
    assert not run.head_path
    saved = regraft.load(tmp_path / "run").classifier
    assert (saved.pooling, saved.head.dropout, saved.head.activation, saved.taps) == ("max", 0.3, "softmax", ())
    config = load_run_config(tmp_path / "run" / "config.toml")
    assert (config.run.preset, config.training.class_weights) == ("keras", {"0": 1, "red": 3})
    images = sorted((squares_folder / "red").glob("[0-9]*.png"))
    for ours, loaded in zip(run.predict(images), regraft.load(tmp_path / "run").predict(images), strict=True):
        assert ours.probabilities.tolist() == loaded.probabilities.tolist()
    wrong = load_config(overrides={**settings, "training.class_weights": {"rde": 2}})
    with pytest.raises(UsageError, match=r"class in training.class_weights 'rde'. Did you mean red"):
        train_from(squares_folder, wrong, tmp_path / "other")
    assert not (tmp_path / "other").exists()
