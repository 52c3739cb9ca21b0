from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

import regraft
from regraft.config import load_config
from regraft.data.dataset import Dataset
from regraft.errors import DataError, RunError, UsageError
from regraft.evaluation.calibration import measure_calibration, tempered
from regraft.pipeline.evaluate import predict_dataset
from regraft.pipeline.train import resume, train_from
from regraft.training.progress import Silence

SETTINGS = (
    "model.image_size=32",
    "training.finetune_epochs=2",
    "training.views=2",
    "training.batch_size=8",
    "data.val=0.25",
    "data.test=0.25",
)


@pytest.fixture(scope="module")
def run(squares_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> regraft.Run:
    out = tmp_path_factory.mktemp("runs") / "squares"
    return train_from(squares_folder, load_config(None, SETTINGS), out)


def test_the_runs_folder(run: regraft.Run) -> None:
    names = {f.relative_to(run.path).as_posix() for f in run.path.rglob("*") if f.is_file()}
    assert names == {
        "model.safetensors", "model.json", "class_names.json", "config.toml", "source.json", "split.csv", "history.csv",
        "metrics.json", "predictions.csv", "report.html", "MODEL_CARD.md", "label_errors.csv",
        "plots/training_history.png", "plots/confusion_matrix.png", "plots/sample_predictions.png",
        "plots/reliability.png",
    }  # fmt: skip
    for plot in (run.path / "plots").iterdir():
        with Image.open(plot) as image:
            assert min(image.size) > 300


def test_metrics_have_the_promised_numbers(run: regraft.Run) -> None:
    metrics = json.loads((run.path / "metrics.json").read_text())
    for path in (
        "test.accuracy", "test.macro_f1", "time.train_seconds", "time.predict_ms_per_image", "model.parameters",
        "model.megabytes", "memory.peak_megabytes", "train.accuracy", "val.accuracy",
    ):  # fmt: skip
        value = metrics
        for key in path.split("."):
            value = value[key]
        assert isinstance(value, (int, float)), path
        assert value > 0, path
    assert [bad["path"] for bad in metrics["data"]["bad"]] == ["red/broken.png"]
    assert "not an image" in metrics["data"]["bad"][0]["reason"]
    assert metrics["test"]["count"] == 9


def test_the_temperature_is_kept_and_measured(run: regraft.Run) -> None:
    found = run.metrics["calibration"]
    temperature = found["temperature"]
    assert temperature != 1.0
    assert run.description["calibration"] == {"temperature": temperature}
    assert run.classifier.head.temperature == temperature
    assert found["fitted_on"] == "val"
    # On the images that it was fitted to, it cannot be worse but for its doubt.
    assert found["val"]["after"]["loss"] <= found["val"]["before"]["loss"] + 0.05
    test = run.predictions.part("test")
    plain = tempered(test.probabilities, 1 / temperature)
    before = measure_calibration(replace(test, probabilities=plain)).to_json()
    assert before.keys() == found["test"]["before"].keys()
    for name, value in before.items():
        assert value == pytest.approx(found["test"]["before"][name], rel=1e-9)
    assert run.metrics["test"]["intervals"]["macro_f1"][1] <= 1


def test_a_new_process_on_another_path_gives_the_same_probabilities(
    run: regraft.Run, squares_folder: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(run.path, moved)
    test = run.predictions.part("test")
    files = [str(squares_folder / name) for name in test.ids]
    code = (
        "import json, sys, regraft; "
        "print(json.dumps([p.probabilities.tolist() for p in regraft.load(sys.argv[1]).predict(sys.argv[2:])]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(moved), *files], capture_output=True, text=True, check=True)
    np.testing.assert_allclose(np.array(json.loads(done.stdout)), test.probabilities, atol=1e-6)


def test_the_kept_predictions_are_what_the_metrics_say(run: regraft.Run) -> None:
    assert run.evaluate().accuracy == run.metrics["test"]["accuracy"]
    assert regraft.evaluate(run).to_json() == run.metrics["test"]
    assert regraft.evaluate(run, part="val").to_json() == run.metrics["val"]


def test_history_reads_as_it_was(run: regraft.Run) -> None:
    phases = [row["phase"] for row in run.history]
    assert phases == sorted(phases, key=["head", "finetune"].index)
    assert [row["kept"] for row in run.history].count(True) == 1
    assert all(isinstance(row["train_loss"], float) and isinstance(row["epoch"], int) for row in run.history)


def test_the_configuration_makes_the_run_again_with_the_same_numbers(
    run: regraft.Run, squares_folder: Path, tmp_path: Path
) -> None:
    again = train_from(squares_folder, load_config(run.path / "config.toml"), tmp_path / "again")
    for part in ("train", "val", "test"):
        assert again.metrics[part] == run.metrics[part]
    assert (again.path / "predictions.csv").read_bytes() == (run.path / "predictions.csv").read_bytes()
    assert (again.path / "split.csv").read_bytes() == (run.path / "split.csv").read_bytes()
    assert (again.path / "model.safetensors").read_bytes() == (run.path / "model.safetensors").read_bytes()


def test_a_run_is_never_overwritten(run: regraft.Run, squares_folder: Path) -> None:
    before = (run.path / "model.json").read_bytes()
    with pytest.raises(RunError, match="holds a run already"):
        train_from(squares_folder, load_config(None, SETTINGS), run.path)
    assert (run.path / "model.json").read_bytes() == before


def test_default_folders_are_new_ones(squares: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for expected in ("runs/run-mobilenetv2", "runs/run-mobilenetv2-2"):
        parts = regraft.split(squares)
        model = regraft.build("mobilenetv2", classes=parts.classes, image_size=32)
        run = regraft.train(model, parts, finetune_from="none", views=1)
        assert run.path == Path(expected)
        assert load_config(run.path / "config.toml").training.finetune_from == "none"


def test_ten_lines_in_a_notebook_with_arrays(squares: Dataset, tmp_path: Path) -> None:
    images = [squares.source(s) for s in squares.samples]
    labels = [s.label for s in squares.samples]
    dataset = regraft.Dataset.from_arrays(images, labels)  # type: ignore[arg-type]  # sources are arrays here
    parts = regraft.split(dataset, train=0.5, val=0.25, test=0.25)
    model = regraft.build(classes=parts.classes, image_size=32)
    run = regraft.train(model, parts, out=tmp_path / "run", finetune_epochs=1, views=2, batch_size=8)
    assert regraft.evaluate(run).accuracy > 0.6
    assert regraft.evaluate(model, parts).count == len(parts.test)
    assert regraft.evaluate(run, parts.train).count == len(parts.train)
    answers = regraft.predict(run, images[:3])
    stacked = np.stack(images[:3])  # type: ignore[arg-type]  # sources are arrays here
    assert [a.label for a in answers] == [a.label for a in regraft.predict(model, stacked)]
    assert regraft.predict(run, images[0])[0].label == answers[0].label
    plots = run.path / "plots"
    assert [a.source for a in run.predict(plots)] == sorted(map(str, plots.glob("*.png")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(regraft.RegraftError, match="has no image"):
        regraft.predict(run, [tmp_path / "empty"])
    predictions = regraft.Predictions.from_arrays([0, 1], [[0.9, 0.1], [0.2, 0.8]])
    assert regraft.evaluate(predictions).accuracy == 1


def test_evaluation_data_may_lack_classes_but_not_bring_new_ones(
    run: regraft.Run, squares_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(squares_folder / "red", tmp_path / "some" / "red")
    assert regraft.evaluate(run, tmp_path / "some").count == 12
    shutil.copytree(squares_folder / "red", tmp_path / "some" / "pink")
    with pytest.raises(DataError, match="pink"):
        regraft.evaluate(run, tmp_path / "some")


def test_evaluate_says_what_it_needs(run: regraft.Run) -> None:
    with pytest.raises(UsageError, match="needs labelled data"):
        regraft.evaluate(run.classifier)


def test_a_missing_run_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"does not exist.*regraft train DATA --out"):
        regraft.load(tmp_path / "none")
    with pytest.raises(RunError, match="regraft train DATA --out"):
        regraft.load(tmp_path)


def test_interrupted_training_leaves_a_usable_run(squares_folder: Path, tmp_path: Path) -> None:
    """Killed after the head: the folder predicts already."""
    from regraft.training.progress import Epoch, Silence

    class Killer(Silence):
        def epoch(self, row: Epoch) -> None:
            if row.phase == "finetune":
                raise MemoryError  # not Ctrl-C, which is handled: as abrupt as Python can be

    with pytest.raises(MemoryError):
        train_from(squares_folder, load_config(None, SETTINGS), tmp_path / "run", listener=Killer())
    run = regraft.load(tmp_path / "run")
    assert run.predict(squares_folder / "red" / "00.png")[0].error is None
    assert not (tmp_path / "run" / ".scratch").exists()
    with pytest.raises(RunError, match="stopped before it was evaluated"):
        run.evaluate()


def test_one_array_is_one_image(run: regraft.Run) -> None:
    image = np.zeros((40, 50, 3), np.uint8)
    assert len(run.predict(image)) == len(regraft.predict(run, image)) == 1
    assert len(run.predict(np.stack([image, image]))) == 2


def test_what_a_killed_run_left_is_cleared_away(squares_split: regraft.Split, tmp_path: Path) -> None:
    left = tmp_path / "run" / ".scratch" / "regraft-dead"
    left.mkdir(parents=True)
    (left / "activations.bin").write_bytes(b"half")
    model = regraft.build("mobilenetv2", classes=squares_split.classes, weights="none", image_size=32)
    run = regraft.train(model, squares_split, out=tmp_path / "run", finetune_from="none", views=1)
    assert run.metrics["test"]["count"] > 0
    assert sorted(f.name for f in run.path.iterdir() if f.name.startswith(".")) == []
    config = load_config(run.path / "config.toml")
    assert (config.model.weights, config.model.image_size) == ("none", 32)


def test_a_folder_in_use_is_refused_and_an_unused_one_not_left(squares_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    with FileLock(out / ".lock"), pytest.raises(RunError, match="Another process"):
        train_from(squares_folder, load_config(None, SETTINGS), out)
    with pytest.raises(UsageError, match="does not exist"):
        train_from(tmp_path / "nowhere", load_config(None, SETTINGS), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_evaluation_allows_as_many_pixels_as_the_scan_did(squares_folder: Path) -> None:
    dataset = regraft.scan(squares_folder)
    model = regraft.build("mobilenetv2", classes=dataset.classes, weights="none", image_size=32)
    assert len(predict_dataset(model, dataclasses.replace(dataset, max_pixels=1_600))) == len(dataset)
    with pytest.raises(DataError, match="more than 1,599 allowed"):
        predict_dataset(model, dataclasses.replace(dataset, max_pixels=1_599))


def test_too_few_images_for_a_part_are_noted(tmp_path: Path) -> None:
    notes: list[str] = []

    class Listener(Silence):
        def note(self, text: str) -> None:
            notes.append(text)

    rng = np.random.default_rng(0)
    for i in range(4):
        folder = tmp_path / "data" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    settings = ("model.image_size=32", "training.finetune_from=none", "training.views=1", "data.val=0", "data.test=0.1")
    run = train_from(tmp_path / "data", load_config(None, settings), tmp_path / "run", listener=Listener())
    assert any("too few images (or groups) for a test part" in note for note in notes)
    assert "test" not in run.metrics


def test_resuming_on_other_data_is_refused(run: regraft.Run, squares_folder: Path, tmp_path: Path) -> None:
    data, copy = tmp_path / "squares", tmp_path / "run"
    shutil.copytree(squares_folder, data)
    shutil.copytree(run.path, copy)
    (copy / "metrics.json").unlink()
    (copy / "source.json").write_text(json.dumps({"data": str(data)}))
    (data / "red" / "00.png").unlink()
    with pytest.raises(RunError, match="has changed since"):
        resume(copy)
    shutil.copy(squares_folder / "red" / "00.png", data / "red")
    assert resume(copy).metrics["test"] == run.metrics["test"]
