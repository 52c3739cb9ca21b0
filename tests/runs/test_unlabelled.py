"""A training with images without labels: what it uses, says, writes and refuses."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.conftest import picture

import regraft
from regraft.config import load_config
from regraft.data.unlabelled import find_unlabelled
from regraft.errors import RunError, UsageError
from regraft.runs import budget
from regraft.runs.plan import plan_from
from regraft.runs.run_images import read_rows
from regraft.runs.train import train_from
from regraft.training import soft_labels
from regraft.training import unlabelled as module
from regraft.training.callbacks import NullReporter
from regraft.training.soft_labels import CANDIDATES, Decision

#: The head alone, fitted; no test here is about fine-tuning.
HEAD = {"training.finetune_epochs": 0, "model.image_size": 32, "data.val": 0.25, "data.test": 0.25}
USED = Decision(True, CANDIDATES[0], 0.1, 0.1, 1.0, 0.652, 0.671, 0.05, 0.02)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight new pictures."""
    root, rng = tmp_path_factory.mktemp("unlabelled"), np.random.default_rng(7)
    for i, label in enumerate(("red", "green", "blue", "red", "green", "blue", "red", "red")):
        Image.fromarray(picture(label, rng)).save(root / f"{i}.png")
    return root


def settings(**others: Any) -> Any:
    return load_config(overrides={**HEAD, **{name.replace("__", "."): value for name, value in others.items()}})


@pytest.fixture
def run(squares_folder: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> regraft.Run:
    monkeypatch.setattr(module, "decide", lambda *args, **kwargs: USED)
    return train_from(squares_folder, settings(data__unlabelled=str(folder)), tmp_path / "run")


def test_a_run_says_what_it_used(run: regraft.Run, squares_folder: Path, folder: Path, tmp_path: Path) -> None:
    said = run.metrics["unlabelled"]
    assert (said["found"], said["usable"], said["used"], said["reason"]) == (8, 8, 8, None)
    assert said["cross_validation"]["accuracy_with"] == 0.671
    note = "Unlabelled images: 8 used; cross-validation accuracy 0.652 -> 0.671"
    assert any(text.startswith(note) for text in run.metrics["training"]["notes"])
    for page in ("report.html", "MODEL_CARD.md"):
        assert "Unlabelled images: 8 used" in (run.path / page).read_text(encoding="utf-8")
    assert [row["path"] for row in read_rows(run.path / "unlabelled.csv")] == [f"{i}.png" for i in range(8)]
    plain = train_from(squares_folder, settings(), tmp_path / "plain")
    weights = [r.classifier.head.classifier.weight.detach().numpy() for r in (run, plain)]
    assert np.abs(weights[0] - weights[1]).max() > 1e-3
    assert "unlabelled" not in plain.metrics
    assert not (plain.path / "unlabelled.csv").exists()
    # An evaluation knows the images that the model has seen without their labels.
    (tmp_path / "seen" / "red").mkdir(parents=True)
    shutil.copy(folder / "0.png", tmp_path / "seen" / "red")
    overlap = regraft.evaluate(run, tmp_path / "seen").overlap
    assert overlap is not None
    assert overlap.identical == 1


def test_images_that_do_not_help_change_nothing(
    squares_folder: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "decide", lambda *args, **kwargs: replace(USED, used=False))
    plain = train_from(squares_folder, settings(), tmp_path / "plain")
    same = train_from(squares_folder, settings(data__unlabelled=str(folder)), tmp_path / "same")
    assert (plain.path / "model.safetensors").read_bytes() == (same.path / "model.safetensors").read_bytes()
    assert any("Unlabelled images: not used" in text for text in same.metrics["training"]["notes"])


def test_cross_validation_decides_and_runs_are_equal(squares_folder: Path, folder: Path, tmp_path: Path) -> None:
    models = []
    for name in ("first", "second"):
        done = train_from(squares_folder, settings(data__unlabelled=str(folder)), tmp_path / name)
        measured = done.metrics["unlabelled"]["cross_validation"]
        falls = measured["loss_decrease"] > measured["loss_error"]
        if not falls or measured["accuracy_with"] >= measured["accuracy_without"]:  # else the noise decides
            assert done.metrics["unlabelled"]["used"] == (8 if falls else 0)
        models.append((done.path / "model.safetensors").read_bytes())
    assert models[0] == models[1]


def test_of_many_images_a_part_is_used(
    squares_folder: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "decide", lambda *args, **kwargs: USED)
    monkeypatch.setattr(soft_labels, "MAX_IMAGES", 23)  # 18 have labels
    done = train_from(squares_folder, settings(data__unlabelled=str(folder)), tmp_path / "some")
    assert (done.metrics["unlabelled"]["usable"], done.metrics["unlabelled"]["used"]) == (8, 5)
    monkeypatch.setattr(soft_labels, "MAX_LABELED", 10)
    none = train_from(squares_folder, settings(data__unlabelled=str(folder)), tmp_path / "none")
    assert none.metrics["unlabelled"]["reason"] == "18 labels are too many for a comparison in reasonable time"


def test_too_little_memory_is_said(squares_folder: Path, folder: Path, tmp_path: Path) -> None:
    config = settings(data__unlabelled=str(folder), training__memory_gb=1e-5)
    done = train_from(squares_folder, config, tmp_path / "run")
    assert not done.metrics["unlabelled"]["used"]
    assert "memory" in done.metrics["unlabelled"]["reason"]


def test_a_run_resumes_with_the_same_images_only(
    run: regraft.Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again, others = tmp_path / "again", tmp_path / "others"
    again.mkdir()
    shutil.copytree(folder, others)
    for name in ("source.json", "config.toml", "split.csv", "unlabelled.csv"):  # as if killed before the head
        shutil.copy(run.path / name, again)
    assert str(folder) in (again / "config.toml").read_text()
    assert (regraft.resume(again).path / "model.safetensors").read_bytes() == (
        run.path / "model.safetensors"
    ).read_bytes()
    (again / "metrics.json").unlink()
    (others / "0.png").unlink()
    text = (again / "config.toml").read_text().replace(json.dumps(str(folder)), json.dumps(str(others)))
    (again / "config.toml").write_text(text)
    with pytest.raises(RunError, match="has changed since"):
        regraft.resume(again)


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"training__head_optimizer": "adam"}, "the head is trained in epochs"),
        ({"model__head": "mlp"}, "the head is trained in epochs"),
        ({"model__weights": "none", "training__finetune_epochs": 1}, "there is no phase of the head"),
    ],
)
def test_refused_where_it_has_no_effect(
    others: dict[str, Any], words: str, squares_folder: Path, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        train_from(squares_folder, settings(data__unlabelled=str(folder), **others), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_verbs_refuse_it(squares_folder: Path, folder: Path) -> None:
    config = settings(data__unlabelled=str(folder))
    with pytest.raises(UsageError, match="no effect on `regraft plan`"):
        plan_from(squares_folder, config, NullReporter())
    with pytest.raises(UsageError, match="no effect on `regraft learning-curve`"):
        regraft.learning_curve(squares_folder, config=config)


def test_from_python(squares_split: Any, folder: Path, tmp_path: Path) -> None:
    model = regraft.build(classes=squares_split.classes, image_size=32)
    done = regraft.train(model, squares_split, out=tmp_path / "run", unlabelled=folder, finetune_epochs=0)
    assert done.metrics["unlabelled"]["usable"] == 8


def test_a_budget_leaves_time_for_them(squares_split: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, config = regraft.build(classes=squares_split.classes, image_size=32), settings(training__budget=600.0)
    rates, make_plan = replace(budget.measure(model, squares_split, config), decode=1.0), budget.make_plan
    seconds: list[float] = []

    def spy(*args: Any, **options: Any) -> Any:
        seconds.append(options["seconds"])
        return make_plan(*args, **options)

    monkeypatch.setattr(budget, "measure", lambda *args: rates)
    monkeypatch.setattr(budget, "make_plan", spy)
    others = replace(squares_split, unlabelled=find_unlabelled(folder, squares_split.dataset))
    for split in (squares_split, others):
        budget.fit_into_budget(model, split, config, time.monotonic(), NullReporter())
    assert seconds[0] - seconds[1] > 7.5  # eight images, one a second
