import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

import regraft
from regraft.config import load_config
from regraft.errors import DataError, RunError, UsageError
from regraft.evaluation.metrics import Evaluation
from regraft.pipeline import train as train_module
from regraft.pipeline.report import CARD, COMPARISON, REPORT, SUSPECTS, write_report
from regraft.pipeline.train import train_from

SETTINGS = ("model.image_size=32", "training.finetune_from=none", "training.views=1", "data.val=0.2", "data.test=0.3")
FILES = (REPORT, CARD, SUSPECTS)


@pytest.fixture(scope="module")
def trained(squares_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_from(squares_folder, load_config(None, SETTINGS), tmp_path_factory.mktemp("report") / "run").path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy, which a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def pictures(run: Path) -> int:
    return (run / REPORT).read_text(encoding="utf-8").count("<img")


def test_every_run_gets_its_report_and_writing_it_again_changes_nothing(run: Path) -> None:
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


def test_images_that_moved_changed_or_are_gone(run: Path, squares_folder: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(squares_folder, tmp_path / "moved"))
    (run / "source.json").write_text(json.dumps({"data": str(tmp_path / "gone")}))
    write_report(run)
    assert pictures(run) == 0
    assert "cannot be read where the data was" in (run / REPORT).read_text(encoding="utf-8")
    write_report(run, moved)
    assert (all_of_them := pictures(run)) > 0
    shown = regraft.load(run).predictions.part("test").ids
    (moved / shown[0]).unlink()
    shutil.copy(moved / shown[1], moved / shown[2])
    write_report(run, moved)
    assert 0 < pictures(run) < all_of_them
    write_report(run, regraft.scan(squares_folder))
    assert pictures(run) == all_of_them


def test_nothing_outside_the_data_is_shown(run: Path, squares_folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    shutil.copy(squares_folder / "red" / "00.png", secret)
    file = run / "predictions.csv"
    header, *rows = file.read_text().splitlines()
    file.write_text("\n".join([header, *(f"{secret},{row.partition(',')[2]}" for row in rows)]) + "\n")
    write_report(run)
    assert pictures(run) == 0


def test_a_run_that_was_killed_has_a_report_that_says_so(run: Path) -> None:
    for name in ("metrics.json", "history.csv", "predictions.csv", *FILES):
        (run / name).unlink()
    write_report(run)
    page = (run / REPORT).read_text(encoding="utf-8")
    assert "Training was stopped before this run was evaluated" in page
    assert "red" in page
    assert "was stopped before" in (run / CARD).read_text(encoding="utf-8")
    for name in ("config.toml", "split.csv", "source.json"):
        (run / name).unlink()
    write_report(run)
    assert "does not say what it learnt from" in (run / REPORT).read_text(encoding="utf-8")


def test_a_run_on_arrays_and_one_without_parts(squares: regraft.Dataset, tmp_path: Path) -> None:
    parts = regraft.split(squares, train=0.5, val=0, test=0.5)
    model = regraft.build("mobilenetv2", classes=parts.classes, weights="none", image_size=32)
    run = regraft.train(model, parts, out=tmp_path / "test", finetune_from="none", views=1)
    assert pictures(run.path) > 0
    page = (run.path / REPORT).read_text(encoding="utf-8")
    assert "There is no validation part" in page
    assert "It was trained from Python" in page
    alone = squares.with_samples([replace(s, part="train") for s in squares.samples])
    run = regraft.train(model, regraft.Split(alone), out=tmp_path / "none", finetune_from="none", views=1)
    assert "how good it is cannot be said" in (run.path / REPORT).read_text(encoding="utf-8")


def test_one_image_a_class(squares: regraft.Dataset, tmp_path: Path) -> None:
    samples = [replace(s, part=part) for i, s in enumerate(squares.samples)
               if (part := {0: "train", 1: "train", 2: "val", 3: "test"}.get(i % 16))]  # fmt: skip
    split = regraft.Split(squares.with_samples(samples))
    model = regraft.build("mobilenetv2", classes=split.classes, weights="none", image_size=32)
    run = regraft.train(model, split, out=tmp_path / "run", finetune_from="none", views=1)
    assert "Of 3 test images" in (run.path / REPORT).read_text(encoding="utf-8")


def test_a_comparison_beside_the_run_is_shown(run: Path) -> None:
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
        (lambda run: (run / "model.json").unlink(), RunError, "is not a run"),
        (lambda run: shutil.rmtree(run), UsageError, "does not exist"),
        (
            lambda run: (run / "predictions.csv").write_text("id,label,predicted,part,p(x)\n1,x,x,test,1.0\n"),
            RunError,
            "other classes than model.json",
        ),
    ],
    ids=["metrics", "source", "predictions", "model", "folder", "classes"],
)
def test_what_is_damaged_is_named(
    run: Path, damage: Callable[[Path], object], kind: type[Exception], words: str
) -> None:
    damage(run)
    with pytest.raises(kind, match=words):
        write_report(run)


def test_data_that_cannot_be_read_is_an_error_if_it_was_asked_for(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        write_report(run, tmp_path / "nowhere")
    (run / "source.json").write_text(json.dumps({"data": str(run / "config.toml")}))  # it is there, and no data
    write_report(run)
    assert pictures(run) == 0


def test_metrics_of_an_earlier_version_will_do(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    for part in ("val", "test"):
        del metrics[part]["intervals"]
    del metrics["calibration"]
    (run / "metrics.json").write_text(json.dumps(metrics))
    write_report(run)
    assert "It was not measured." in (run / CARD).read_text(encoding="utf-8")


def test_a_training_does_not_fail_by_its_report(
    squares_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RunError("no room")

    monkeypatch.setattr(train_module, "write_report", fail)
    run = train_from(squares_folder, load_config(None, SETTINGS), tmp_path / "run")
    assert run.metrics["test"]["count"]
    assert not (run.path / REPORT).exists()


def test_evaluations_survive_json(trained: Path) -> None:
    run = regraft.load(trained)
    evaluation = run.evaluate("test")
    again = Evaluation.from_json(json.loads(json.dumps(evaluation.to_json())))
    assert again.to_json() == evaluation.to_json()
    assert again.report() == evaluation.report()
    assert np.array_equal(again.confusion, evaluation.confusion)
    with pytest.raises(DataError, match="no evaluation"):
        Evaluation.from_json({"count": 3})
