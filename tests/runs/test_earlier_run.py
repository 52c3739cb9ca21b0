"""Runs that start from runs: their settings, weights and head, and more epochs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from terminal import csv_rows, regraft

import regraft as library
from regraft.config import load_config
from regraft.data.dataset import Split
from regraft.errors import ConfigError, UsageError, WeightsError
from regraft.runs.earlier_run import notes_on_earlier_run
from regraft.runs.prepare import build_for
from regraft.runs.resume import resume
from regraft.runs.scan_and_split import split_with
from regraft.training.callbacks import Epoch, NullReporter


class Messages(NullReporter):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def on_message(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture(scope="module")
def grown_folder(squares_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The squares without green, with more of blue, and with yellow."""
    folder = tmp_path_factory.mktemp("grown") / "squares"
    shutil.copytree(squares_folder, folder)
    shutil.rmtree(folder / "green")
    rng = np.random.default_rng(3)
    (folder / "yellow").mkdir()
    for name in [f"blue/new{i}.png" for i in range(4)] + [f"yellow/{i}.png" for i in range(8)]:
        pixels = rng.integers(90, 160, (40, 40, 3), dtype=np.uint8)
        pixels[5:25, 5:25] = (30, 60, 220) if name.startswith("blue") else (230, 220, 30)
        Image.fromarray(pixels).save(folder / name)
    return folder


def test_a_run_starts_from_another(squares_run: library.Run, grown_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "grown"
    done = regraft("train", grown_folder, "--from", squares_run.path, "--out", out, "--set", "training.batch_size=4")
    assert done.returncode == 0, done.stderr
    words = "blue, red stay; yellow is new; green is gone. The head is fitted anew on all images."
    assert words in done.stdout
    assert "of the test part trained" not in done.stdout
    run, config = library.load(out), load_config(out / "config.toml")
    assert run.description["weights"]["source"] == "run"
    assert run.description["weights"]["name"] == config.run.from_run == str(squares_run.path.resolve())
    assert (config.model.image_size, config.training.views, config.training.batch_size) == (32, 2, 4)
    parts = {row["sha256"]: row["part"] for row in csv_rows(squares_run.path / "split.csv")}
    stayed = [row for row in csv_rows(out / "split.csv") if row["sha256"] in parts]
    assert len(stayed) == 24
    assert all(row["part"] == parts[row["sha256"]] for row in stayed)
    again = regraft("train", "--config", out / "config.toml", "--out", tmp_path / "again")  # with its own data
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again" / "predictions.csv").read_bytes() == (out / "predictions.csv").read_bytes()


def test_what_was_chosen_for_a_machine_is_chosen_anew(squares_run: library.Run, tmp_path: Path) -> None:
    shutil.copytree(squares_run.path, tmp_path / "run")
    config = tmp_path / "run" / "config.toml"
    text = config.read_text()
    for before, after in (("prefix_backend", "openvino"), ("feature_cache", "memory")):
        text = re.sub(f"^{before} = .*$", f'{before} = "{after}"', text, flags=re.MULTILINE)
    config.write_text(text)
    assert load_config(config).training.prefix_backend == "openvino"
    later = load_config(overrides={"run.from_run": str(tmp_path / "run")}).training
    assert (later.prefix_backend, later.feature_cache) == ("auto", "auto")
    assert later.seed == load_config(config).training.seed


@pytest.mark.parametrize(
    ("min_steps", "ema_epochs", "expected"),
    [(200, 10.2, (10, 1.0)), (200, 2.0, (10, 2.0)), (0, 10.2, (34, 10.2))],
    ids=["few images", "an average that was given", "epochs that were given"],
)
def test_epochs_that_few_images_needed_are_not_those_of_a_later_run(
    min_steps: int, ema_epochs: float, expected: tuple[int, float], squares_run: library.Run, tmp_path: Path
) -> None:
    shutil.copytree(squares_run.path, tmp_path / "run")
    config = load_config(squares_run.path / "config.toml")
    training = replace(config.training, finetune_epochs=34, finetune_min_steps=min_steps, ema_epochs=ema_epochs)
    (tmp_path / "run" / "config.toml").write_text(config.model_copy(update={"training": training}).to_toml())
    later = load_config(overrides={"run.from_run": str(tmp_path / "run")}).training
    assert (later.finetune_epochs, later.ema_epochs) == expected


def test_from_python_a_run_takes_the_place_of_a_model(
    squares_run: library.Run, grown_folder: Path, tmp_path: Path
) -> None:
    messages = Messages()
    dataset = library.scan(grown_folder)
    run = library.train(
        str(squares_run.path), dataset, out=tmp_path / "run", finetune_epochs=0, head_optimizer="adam", head_epochs=1,
        reporter=messages,
    )  # fmt: skip
    assert any("blue, red keep their rows; yellow is new; green is gone" in text for text in messages.texts)
    assert run.classes == ("blue", "red", "yellow")
    with pytest.raises(UsageError, match="does not exist"):
        library.train("nowhere", dataset)
    with pytest.raises(ConfigError, match="finetune_epoch: no such setting"):
        library.train(squares_run, dataset, finetune_epoch=1)


def test_shares_of_the_earlier_run_are_not_asked_of_divided_data(
    squares_run: library.Run, squares_folder: Path
) -> None:
    earlier = {"run.from_run": str(squares_run.path)}
    assert load_config(overrides=earlier).data.test != 0.1
    divided = library.split(library.scan(squares_folder), val=0.3, test=0.3).dataset
    assert split_with(divided, load_config(overrides=earlier)).dataset == divided
    with pytest.raises(UsageError, match="divided already"):
        split_with(divided, load_config(overrides={**earlier, "data.test": 0.3}))


def test_rows_of_classes_that_stay_are_the_same(squares_run: library.Run, grown_folder: Path) -> None:
    config = load_config(overrides={"run.from_run": str(squares_run.path)})
    model, before = build_for(config, library.scan(grown_folder)), squares_run.classifier
    for new, old in ((0, 0), (1, 2)):  # blue, red
        assert torch.equal(model.head.classifier.weight[new], before.head.classifier.weight[old])
        assert torch.equal(model.head.classifier.bias[new], before.head.classifier.bias[old])
    assert torch.equal(
        model.backbone.state_dict()["conv_stem.weight"], before.backbone.state_dict()["conv_stem.weight"]
    )


def test_a_run_is_a_backbone_or_weights(squares_run: library.Run, tmp_path: Path) -> None:
    path = str(squares_run.path)
    for model in (
        library.build(path, classes=("a", "b")),
        library.build(squares_run.path, classes=("a", "b")),
        library.build(weights=path, classes=("a", "b"), image_size=32),
    ):
        assert (model.weights.source, model.preprocessing.size) == ("run", 32)
        for name, tensor in squares_run.classifier.backbone.state_dict().items():
            assert torch.equal(tensor, model.backbone.state_dict()[name]), name
    config = load_config(overrides={"model.backbone": path})
    assert (config.model.backbone, config.model.image_size) == ("efficientnet_lite0", 32)
    assert config.model.weights == config.data.keep_split == str(squares_run.path.resolve())
    assert load_config(overrides={"model.weights": path, "data.keep_split": ""}).data.keep_split == ""
    with pytest.raises(WeightsError, match=r"is a run of .*efficientnet_lite0.*--backbone"):
        library.build("mobilenetv2", weights=path, classes=("a", "b"))
    with pytest.raises(ConfigError, match="expected the folder of a run"):
        load_config(overrides={"run.from_run": str(tmp_path)})


def test_images_that_change_their_part_are_said(squares_run: library.Run, squares_folder: Path) -> None:
    dataset = library.scan(squares_folder)
    parts = {row["path"]: row["part"] for row in csv_rows(squares_run.path / "split.csv")}
    swapped = {"train": "test", "val": "val", "test": "train"}

    def notes(part_of: dict[str, str]) -> list[str]:
        samples = [replace(s, part=part_of[s.path]) for s in dataset.samples]  # type: ignore[arg-type]
        split = Split(dataset.with_samples(samples))
        return list(notes_on_earlier_run(library.build(squares_run.path, classes=split.classes), split, load_config()))

    assert notes(parts) == []
    trained, moved = notes({path: swapped[part] for path, part in parts.items()})
    counts = [list(parts.values()).count(part) for part in ("train", "test")]
    assert trained.startswith(f"{counts[0]} images of the test part trained {squares_run.path.resolve()}")
    assert moved.startswith(f"{counts[1]} images of the train part were in the val or test part")


def test_a_finished_run_is_fine_tuned_further(squares_run: library.Run, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        shutil.copytree(squares_run.path, folder)
    done = regraft("train", "--resume", whole, "--finetune-epochs", "3")
    assert done.returncode == 0, done.stderr
    assert "1 epoch of fine-tuning is done. 2 more follow" in done.stdout
    run = library.load(whole)
    assert [row["epoch"] for row in run.history] == [1, 2, 3]
    assert [row["kept"] for row in run.history].count(True) <= 1
    assert run.head_path == squares_run.head_path
    assert load_config(whole / "config.toml").training.finetune_epochs == 3

    class Killer(NullReporter):
        def on_epoch_end(self, row: Epoch) -> None:
            if row.epoch == 2:
                raise MemoryError

    with pytest.raises(MemoryError):
        resume(killed, finetune_epochs=3, reporter=Killer())
    with pytest.raises(UsageError, match="not finished: it trains for 3 epochs"):
        resume(killed, finetune_epochs=4)
    assert [row["epoch"] for row in resume(killed).history] == [1, 2, 3]
    assert (killed / "predictions.csv").read_bytes() == (whole / "predictions.csv").read_bytes()
    with pytest.raises(UsageError, match="has 3 epochs of fine-tuning; 3 in all leaves none"):
        resume(killed, finetune_epochs=3)


def test_paths_in_a_file_of_settings_start_at_its_folder(squares_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text('[run]\ndata = "photos"\nout = "runs/a"\n')
    config = load_config(file)
    assert (config.run.data, config.run.out) == (str(tmp_path / "photos"), str(tmp_path / "runs" / "a"))
    file.write_text('[run]\ndata = "s3://bucket/photos"\n')
    assert load_config(file).run.data == "s3://bucket/photos"
    done = regraft("train", "--config", file, tmp_path / "elsewhere")  # the command line wins
    assert (done.returncode, "elsewhere does not exist" in done.stderr) == (2, True)
    file.write_text("")
    assert "Expected DATA" in regraft("train", "--config", file).stderr


def test_a_loss_from_python_is_recorded_and_asked_for(
    squares_run: library.Run, grown_folder: Path, tmp_path: Path
) -> None:
    epochs: list[int] = []

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits, targets)

    def stop(epoch: int, metrics: Mapping[str, Any]) -> bool:
        epochs.append(epoch)
        return bool(metrics["train_loss"] < 100)

    options: dict[str, Any] = {"loss": loss, "out": tmp_path / "run", "finetune_epochs": 0, "head_epochs": 3}
    run = library.train(squares_run, grown_folder, callbacks=[stop], **options)
    assert epochs == [1]
    assert load_config(run.path / "config.toml").training.custom_loss.endswith("asked_for.<locals>.loss")
    assert any("The training loss is " in note for note in run.metrics["training"]["notes"])
    with pytest.raises(UsageError, match=r"regraft\.resume\(RUN, loss=FUNCTION\)"):
        resume(run.path, finetune_epochs=1)
    with pytest.raises(UsageError, match="class_weights would have no effect on a loss function"):
        library.train(squares_run, grown_folder, class_weights="balanced", **options)
