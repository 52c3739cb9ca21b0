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
from regraft.data.unlabelled import find_unlabeled
from regraft.errors import BudgetError, DataError, RunError, UsageError
from regraft.models.registry import BACKBONES
from regraft.runs import backbone_search, budget
from regraft.runs import unlabelled as runs_module
from regraft.runs.earlier_run import notes_on_earlier_run
from regraft.runs.plan import plan_from
from regraft.runs.prepare import build_for
from regraft.runs.run_images import read_rows
from regraft.runs.scan_and_split import scan_and_split
from regraft.runs.train import train_from
from regraft.runs.unlabelled import find_unlabeled_for
from regraft.training import soft_labels
from regraft.training import unlabelled as module
from regraft.training.backbone_scores import BackboneScore
from regraft.training.callbacks import NullReporter
from regraft.training.soft_labels import CANDIDATES, Decision, decide, estimate_seconds

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
    note = "Unlabeled images: 8 used; cross-validation accuracy 0.652 -> 0.671"
    assert any(text.startswith(note) for text in run.metrics["training"]["notes"])
    for page in ("report.html", "MODEL_CARD.md"):
        assert "Unlabeled images: 8 used" in (run.path / page).read_text(encoding="utf-8")
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
    assert any("Unlabeled images: not used" in text for text in same.metrics["training"]["notes"])


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


def test_with_many_labels_no_image_is_read(
    squares_folder: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **options: Any) -> Any:
        raise AssertionError("images were read before")

    monkeypatch.setattr(runs_module, "find_unlabeled", refuse)
    monkeypatch.setattr(soft_labels, "MAX_LABELED", 10)
    with pytest.raises(UsageError, match="at most 10 labeled images, and the training has 18"):
        train_from(squares_folder, settings(data__unlabelled=str(folder)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_features_of_fine_tuned_backbones_decide_nothing(
    squares_folder: Path, folder: Path, tmp_path: Path, fast_settings: dict[str, Any]
) -> None:
    several = {"model.backbone": "efficientnet_lite0@32,mobilenetv2@32", "model.image_size": 0}
    config = load_config(overrides={**fast_settings, **several, "data.unlabelled": str(folder)})
    done = train_from(squares_folder, config, tmp_path / "run")
    said = done.metrics["unlabelled"]
    assert (said["used"], said["cross_validation"]) == (0, None)
    assert "fine-tuned on the labeled images" in said["reason"]
    assert any(said["reason"] in text for text in done.metrics["training"]["notes"])
    for member in done.metrics["members"]:  # the head of each, on features that have seen no label, decides
        alone = json.loads((done.path / "members" / member / "metrics.json").read_text())["unlabelled"]
        assert alone["cross_validation"] is not None


def test_the_preset_best_uses_them_for_the_head_over_several_backbones(
    squares_folder: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    class Messages(NullReporter):
        def on_message(self, text: str) -> None:
            said.append(text)

    here = {name: (BACKBONES[name], "wheel") for name in ("efficientnet_lite0", "mobilenetv2")}
    monkeypatch.setattr(backbone_search, "local_backbones", lambda: here)
    monkeypatch.setattr(BackboneScore, "is_beaten_by", lambda *_: False)  # any combination is good enough
    monkeypatch.setattr(module, "decide", lambda *args, **options: replace(decide(*args, **options), used=True))
    config = load_config(overrides={"run.preset": "best", "model.image_size": 32, "data.unlabelled": str(folder)})
    done = train_from(squares_folder, config, tmp_path / "run", reporter=Messages())
    assert len(done.classifier.members) == 2
    assert any("images without labels help where cross-validation says so" in text for text in said)
    assert any(text.startswith("Unlabeled images: 8 used; cross-validation accuracy") for text in said)
    assert (done.metrics["unlabelled"]["used"], done.metrics["head"]["chosen"]) == (8, "joint")


def test_the_column_of_the_images_is_that_of_the_labeled_ones(
    squares_folder: Path, folder: Path, tmp_path: Path
) -> None:
    def rows(root: Path, labels: bool) -> list[str]:
        files = sorted(root.rglob("[0-9]*.png"))  # every row names two images, and only the column says which is meant
        pairs = zip(files, reversed(files), strict=True)
        return [f"{file},{other},{file.parent.name if labels else ''}" for file, other in pairs]

    tables = []
    for name, root, labels in (("labeled", squares_folder, True), ("unlabeled", folder, False)):
        tables.append(tmp_path / f"{name}.csv")
        tables[-1].write_text("\n".join(["first,second,label", *rows(root, labels)]))
    config = settings(data__unlabelled=str(tables[1]), data__image_column="first")
    split = scan_and_split(tables[0], config, NullReporter())
    assert len(find_unlabeled_for(split.dataset, config, NullReporter())) == 8
    other = settings(data__unlabelled=str(tables[1]), data__image_column="third")
    with pytest.raises((DataError, UsageError), match="third"):
        find_unlabeled_for(split.dataset, other, NullReporter())


def test_a_run_that_starts_from_one_has_no_images_but_its_own(
    run: regraft.Run, squares_folder: Path, folder: Path, tmp_path: Path
) -> None:
    start = {"run.from_run": str(run.path)}
    assert load_config(overrides=start).data.unlabelled == ""
    assert load_config(overrides={**start, "data.unlabelled": "others"}).data.unlabelled == "others"
    # Images that had no label then have one now, and some of them are test images.
    data = tmp_path / "data"
    shutil.copytree(squares_folder, data)
    for i, label in enumerate(("red", "green", "blue", "red", "green", "blue", "red", "red")):
        shutil.copy(folder / f"{i}.png", data / label / f"new-{i}.png")
    config = settings(run__from_run=str(run.path))
    split = scan_and_split(data, config, NullReporter())
    notes = list(notes_on_earlier_run(build_for(config, split.dataset), split, config))
    assert any(f"had images without labels, {folder}, and this run has none" in note for note in notes)
    moved = sum(Path(sample.path).name.startswith("new-") for sample in split.test.samples)
    assert moved
    assert any(f"{moved} image{'s' * (moved > 1)} of the test part had no label in" in note for note in notes)


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
    nowhere = (again / "config.toml").read_text().replace(json.dumps(str(folder)), json.dumps(str(tmp_path / "gone")))
    (again / "config.toml").write_text(nowhere)
    with pytest.raises(RunError, match=r"gone, which had the images without labels .* does not exist any more"):
        regraft.resume(again)
    (again / "config.toml").write_text(nowhere.replace(json.dumps(str(tmp_path / "gone")), json.dumps(str(others))))
    assert (regraft.resume(again).path / "model.safetensors").read_bytes() == (
        run.path / "model.safetensors"
    ).read_bytes()  # the same images in another place
    (again / "metrics.json").unlink()
    (others / "0.png").unlink()
    (again / "config.toml").write_text(nowhere.replace(json.dumps(str(tmp_path / "gone")), json.dumps(str(folder))))
    text = (again / "config.toml").read_text().replace(json.dumps(str(folder)), json.dumps(str(others)))
    (again / "config.toml").write_text(text)
    with pytest.raises(RunError, match="has changed since"):
        regraft.resume(again)


def test_more_epochs_that_were_killed_resume(run: regraft.Run, folder: Path, tmp_path: Path) -> None:
    """They follow the fit of the head, and need no images without labels."""

    def kill(epoch: int, metrics: Any) -> None:
        raise MemoryError

    text = (run.path / "config.toml").read_text()
    (run.path / "config.toml").write_text(text.replace(json.dumps(str(folder)), json.dumps(str(tmp_path / "gone"))))
    said = run.metrics["unlabelled"]
    with pytest.raises(MemoryError):
        regraft.resume(run.path, finetune_epochs=1, callbacks=[kill])
    done = regraft.resume(run.path)
    assert done.metrics["unlabelled"] == said
    assert [row["phase"] for row in done.history] == ["finetune"]


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
    with pytest.raises(UsageError, match="no effect on `regraft compare`"):
        regraft.compare(squares_folder, ["efficientnet_lite0", "mobilenetv2"], config=config)
    with pytest.raises(UsageError, match="no effect on `regraft tune`"):
        regraft.tune(squares_folder, config=config)


def test_several_labels_an_image_are_learned_from_them_too(
    several_labels: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "decide", lambda *args, **kwargs: USED)
    config = settings(data__unlabelled=str(folder), data__task="multilabel")
    done = train_from(several_labels, config, tmp_path / "run")
    plain = train_from(several_labels, settings(data__task="multilabel"), tmp_path / "plain")
    assert (done.metrics["unlabelled"]["usable"], done.metrics["unlabelled"]["used"]) == (8, 8)
    note = "Unlabeled images: 8 used; cross-validation share of right answers 0.652 -> 0.671"
    assert any(text.startswith(note) for text in done.metrics["training"]["notes"])
    weights = [r.classifier.head.classifier.weight.detach().numpy() for r in (done, plain)]
    assert np.abs(weights[0] - weights[1]).max() > 1e-3
    assert regraft.evaluate(done).to_json() == done.metrics["test"]


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
    others = replace(squares_split, unlabeled=find_unlabeled(folder, squares_split.dataset))
    for split in (squares_split, others):
        budget.fit_into_budget(model, split, config, time.monotonic(), NullReporter())
    assert seconds[0] - seconds[1] > 7.5  # eight images, one a second
    monkeypatch.setattr(budget, "measure", lambda *args: replace(rates, decode=1e9, head=1e5))
    for split in (squares_split, others):
        budget.fit_into_budget(model, split, config, time.monotonic(), NullReporter())
    values = estimate_seconds(len(squares_split.train), 8, model.head.features, 1.0)
    assert seconds[2] - seconds[3] > values / 1e5  # and all heads that are compared
    monkeypatch.setattr(budget, "measure", lambda *args: replace(rates, decode=1e9, head=1e3))
    with pytest.raises(BudgetError, match="s of the budget are kept for 8 images without labels"):
        budget.fit_into_budget(model, others, config, time.monotonic(), NullReporter())
