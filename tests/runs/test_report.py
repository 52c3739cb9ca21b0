import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from huggingface_hub import ModelCard
from terminal import regraft as regraft_command

import regraft
from regraft.atomic_io import sha256_of
from regraft.config import load_config
from regraft.errors import DataError, RunError, UsageError
from regraft.evaluation.metrics import Evaluation
from regraft.runs import train as train_module
from regraft.runs.record import COMPARISON
from regraft.runs.report import BILL, CARD, REPORT, SUSPECTS, write_report
from regraft.runs.resume import resume
from regraft.runs.train import train_from

HEAD_ONLY = {"model.image_size": 32, "training.finetune_from": "none", "training.views": 1}
FILES = (REPORT, CARD, SUSPECTS, BILL)


@pytest.fixture
def run(squares_run: regraft.Run, tmp_path: Path) -> Path:
    """A copy, which a test may change."""
    return Path(shutil.copytree(squares_run.path, tmp_path / "run"))


def pictures(run: Path) -> int:
    return (run / REPORT).read_text(encoding="utf-8").count("<img")


def test_every_run_has_a_report_and_writing_it_again_changes_nothing(run: Path) -> None:
    before = {name: (run / name).read_bytes() for name in FILES}
    metrics = (run / "metrics.json").read_bytes()
    assert write_report(regraft.load(run)) == run / REPORT
    assert {name: (run / name).read_bytes() for name in FILES} == before
    assert (run / "metrics.json").read_bytes() == metrics
    assert pictures(run) >= 8
    assert ModelCard.load(run / CARD).data.library_name == "regraft"
    assert (run / SUSPECTS).read_text().splitlines()[0] == "path,label,looks_like,probability"
    kept = regraft.load(run)
    accuracy = f"{100 * kept.metrics['test']['accuracy']:.1f}\N{NO-BREAK SPACE}%"
    assert accuracy in (run / REPORT).read_text(encoding="utf-8")


def test_every_run_has_a_bill_of_its_own_files(run: Path) -> None:
    text = (run / BILL).read_text(encoding="utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    hashes = {one["name"]: one["hashes"][0]["content"] for one in bill["components"] if "hashes" in one}
    assert hashes["config.toml"] == sha256_of(run / "config.toml")
    assert hashes["squares"] == sha256_of(run / "split.csv")
    weights = regraft.load(run).description["weights"]
    assert hashes[weights["name"]] == weights["sha256"]
    assert bill["metadata"]["component"]["hashes"][0]["content"] == sha256_of(run / "model.safetensors")
    finished = datetime.fromisoformat(bill["metadata"]["timestamp"])
    assert 0 <= (datetime.now(UTC) - finished).total_seconds() < 86_400
    assert str(run.parent) not in text


def test_conditions_of_a_license_are_told_before_the_training_and_stay_in_its_files(
    run: Path, squares_folder: Path, tmp_path: Path
) -> None:
    description = json.loads((run / "model.json").read_text())
    description["weights"]["license"] = "cc-by-nc-4.0"
    (run / "model.json").write_text(json.dumps(description))
    flags = ("--backbone", run, "--image-size", 32, "--finetune-epochs", 0, "--out", tmp_path / "second")
    done = regraft_command("train", squares_folder, *flags)
    assert done.returncode == 0, done.stderr
    told = "The pretrained weights have the license CC-BY-NC-4.0, which has conditions: no commercial use."
    before, run_line, _ = done.stdout.partition("Run: ")
    assert run_line
    assert told in before
    for name in (REPORT, BILL):
        assert told in (tmp_path / "second" / name).read_text(encoding="utf-8")
    assert "no commercial use" in (tmp_path / "second" / CARD).read_text(encoding="utf-8")


def test_moved_changed_and_missing_images(run: Path, squares_folder: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(squares_folder, tmp_path / "moved"))
    (run / "source.json").write_text(json.dumps({"data": str(tmp_path / "gone")}))
    write_report(run)
    assert pictures(run) == 0
    assert "cannot be read from where the data was" in (run / REPORT).read_text(encoding="utf-8")
    write_report(run, moved)
    assert (all_of_them := pictures(run)) > 0
    shown = regraft.load(run).predictions.part("test").ids
    (moved / shown[0]).unlink()
    shutil.copy(moved / shown[1], moved / shown[2])
    write_report(run, moved)
    assert 0 < pictures(run) < all_of_them
    write_report(run, regraft.scan(squares_folder))
    assert pictures(run) == all_of_them


def test_images_outside_the_data_are_not_shown(run: Path, squares_folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    shutil.copy(squares_folder / "red" / "00.png", secret)
    file = run / "predictions.csv"
    header, *rows = file.read_text().splitlines()
    file.write_text("\n".join([header, *(f"{secret},{row.partition(',')[2]}" for row in rows)]) + "\n")
    write_report(run)
    assert pictures(run) == 0


def test_the_report_of_a_killed_run_says_so(run: Path) -> None:
    for name in ("metrics.json", "history.csv", "predictions.csv", *FILES):
        (run / name).unlink()
    write_report(run)
    page = (run / REPORT).read_text(encoding="utf-8")
    assert "Training was stopped before the model was evaluated" in page
    assert "red" in page
    assert "was stopped before" in (run / CARD).read_text(encoding="utf-8")
    for name in ("config.toml", "split.csv", "source.json"):
        (run / name).unlink()
    write_report(run)
    assert "does not say what it was trained on" in (run / REPORT).read_text(encoding="utf-8")


def test_a_run_of_numbers_without_metrics_says_what_it_was_trained_on(numbers_run: regraft.Run, tmp_path: Path) -> None:
    run = shutil.copytree(numbers_run.path, tmp_path / "run")
    (run / "metrics.json").unlink()
    write_report(run)
    page = (run / REPORT).read_text(encoding="utf-8")
    assert "does not say what it was trained on" not in page


def test_a_run_on_arrays_with_one_image_per_class(squares: regraft.Dataset, tmp_path: Path) -> None:
    samples = [replace(s, part=part) for i, s in enumerate(squares.samples)
               if (part := {0: "train", 1: "train", 2: "test"}.get(i % 16))]  # fmt: skip
    split = regraft.Split(squares.with_samples(samples))
    model = regraft.build("mobilenetv2", classes=split.classes, weights="none", image_size=32)
    run = regraft.train(model, split, out=tmp_path / "run", finetune_from="none", views=1)
    page = (run.path / REPORT).read_text(encoding="utf-8")
    assert pictures(run.path) > 0
    assert "of 3 test images are" in page
    assert "The run has no validation images" in page
    assert "The run was trained from Python" in page


def test_a_model_at_chance_accuses_no_label_and_shows_no_heat_map(run: Path) -> None:
    """Every image is predicted as the first class; a network with random weights can do that."""
    file, model = run / "predictions.csv", run / "model.json"
    header, *rows = file.read_text().splitlines()
    cells = [row.split(",")[:4] for row in rows]
    file.write_text("\n".join([header, *(",".join([*row, "0.5", "0.3", "0.2"]) for row in cells)]) + "\n")
    metrics = json.loads((run / "metrics.json").read_text())
    metrics |= {part: regraft.load(run).evaluate(part).to_json() for part in ("val", "test")}
    (run / "metrics.json").write_text(json.dumps(metrics))
    description = json.loads(model.read_text())
    description["weights"] = {"source": "none", "name": "", "sha256": "", "license": ""}
    model.write_text(json.dumps(description))
    write_report(run)
    page, card = ((run / name).read_text(encoding="utf-8") for name in (REPORT, CARD))
    for text in (page, card):
        assert "The network started from random weights" in text
        assert "not clearly better than always predicting the most frequent class" in text
    assert "Likely label errors are withheld." in page
    assert "Heat maps are withheld." in page
    assert "attribution for" not in page
    assert "pretrained weights." not in card
    assert "transfer" not in card.partition("## Intended use")[0]
    assert (run / SUSPECTS).read_text().splitlines() == ["path,label,looks_like,probability"]


def test_a_comparison_in_the_parent_folder_is_shown(run: Path) -> None:
    models = [{"name": "mobilenetv2", "run": str(run), "test_accuracy": 0.9, "test_accuracy_interval": [0.8, 0.95]}]
    (run.parent / COMPARISON).write_text(json.dumps({"models": models, "conclusion": ["One is enough."]}))
    write_report(run)
    assert "One is enough." in (run / REPORT).read_text(encoding="utf-8")
    models[0]["run"] = str(run.parent / "another")
    others = (json.dumps({"models": models, "conclusion": ["One is enough."]}), '{"models": [1]}', "{", "[]")
    for other in others:  # of other runs, or none of ours
        (run.parent / COMPARISON).write_text(other)
        write_report(run)
        assert "One is enough." not in (run / REPORT).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "kind", "words"),
    [
        (lambda run: (run / "metrics.json").write_text("{"), RunError, "metrics.json is damaged"),
        (lambda run: (run / "source.json").write_text("[]"), RunError, r"source.json is damaged: expected"),
        (lambda run: (run / "predictions.csv").write_text("a,b\n"), DataError, "has the columns a, b"),
        (lambda run: (run / "metrics.json").write_text('{"data": 3}'), RunError, "is damaged"),
        (lambda run: (run / "history.csv").write_bytes(b"\xff"), RunError, "history.csv is damaged"),
        (lambda run: (run / "history.csv").write_text("phase,epoch\nhead\n"), RunError, "history.csv is damaged"),
        (lambda run: (run / "config.toml").write_bytes(b"\xff"), RunError, "is damaged"),
        (lambda run: (run / "model.json").unlink(), RunError, "is not a run"),
        (lambda run: shutil.rmtree(run), UsageError, "does not exist"),
        (
            lambda run: (run / "predictions.csv").write_text("id,label,predicted,part,p(x)\n1,x,x,test,1.0\n"),
            RunError,
            "other classes than model.json",
        ),
        (lambda run: with_metrics(run, "training", {"notes": None}), RunError, "is damaged"),
        (lambda run: with_metrics(run, "data", {"counts": {"train": 3}}), RunError, "is damaged"),
        (lambda run: (run / "head_path.csv").write_text("strength,val_accuracy\nx,high\n"), RunError, "is damaged"),
    ],
    ids=[
        "metrics",
        "source",
        "predictions",
        "values",
        "history",
        "rows",
        "config",
        "model",
        "folder",
        "classes",
        "notes",
        "counts",
        "path",
    ],
)
def test_a_damaged_file_is_named(
    run: Path, damage: Callable[[Path], object], kind: type[Exception], words: str
) -> None:
    damage(run)
    with pytest.raises(kind, match=words):
        write_report(run)


def with_metrics(run: Path, name: str, values: dict[str, object]) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    metrics[name] |= values
    (run / "metrics.json").write_text(json.dumps(metrics))


def test_unreadable_data_is_an_error_only_if_it_was_given(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        write_report(run, tmp_path / "nowhere")
    (run / "source.json").write_text(json.dumps({"data": str(run / "config.toml")}))  # it is there, and no data
    write_report(run)
    assert pictures(run) == 0


def test_metrics_of_an_earlier_version_are_read(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    for part in ("val", "test"):
        del metrics[part]["intervals"]
    del metrics["calibration"]
    (run / "metrics.json").write_text(json.dumps(metrics))
    write_report(run)
    assert "The calibration was not measured." in (run / CARD).read_text(encoding="utf-8")


def test_a_training_does_not_fail_with_its_report(
    squares_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RunError("no room")

    monkeypatch.setattr(train_module, "write_report", fail)
    run = train_from(squares_folder, load_config(overrides=HEAD_ONLY), tmp_path / "run")
    assert run.metrics["test"]["count"]
    assert not (run.path / REPORT).exists()


def test_evaluations_survive_json(squares_run: regraft.Run) -> None:
    evaluation = squares_run.evaluate("test")
    again = Evaluation.from_json(json.loads(json.dumps(evaluation.to_json())))
    assert again.to_json() == evaluation.to_json()
    assert again.report() == evaluation.report()
    assert np.array_equal(again.confusion, evaluation.confusion)
    with pytest.raises(DataError, match="not an evaluation"):
        Evaluation.from_json({"count": 3})


def test_a_run_whose_report_the_disk_has_no_room_for_is_not_finished(
    squares_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "write_report", fail)
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            train_from(squares_folder, load_config(overrides=HEAD_ONLY), tmp_path / "run")
    assert (resume(tmp_path / "run").path / REPORT).is_file()
    assert not (tmp_path / "run" / "checkpoints").exists()
