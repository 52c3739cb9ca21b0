"""Runs of classes that have an order, from the data to the exports, and what they refuse."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from run_documents import check_documents

from regraft import build, change_classes, cross_validate, evaluate, export, inspect, predict, train
from regraft.config import load_config, load_run_config
from regraft.data.scan import scan
from regraft.data.split import split
from regraft.errors import UsageError
from regraft.exporting.exported_model import ExportedModel
from regraft.runs.resume import resume
from regraft.runs.run import Run
from regraft.runs.train import train_from
from regraft.studies.write_folders import split_into

GRADES = ("none", "mild", "severe")
HEAD_ONLY = {
    "model.image_size": 32, "training.finetune_epochs": 0, "data.val": 0.3, "data.test": 0.3, "data.task": "ordinal",
    "data.order": ",".join(GRADES), "training.precision": "off",  # the same scores on nine images on every processor
}  # fmt: skip


@pytest.fixture(scope="module")
def grades(write_squares: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images of each grade, with a darker square the higher it is."""
    colors = {name: (230 - 90 * number,) * 3 for number, name in enumerate(GRADES)}
    return write_squares(tmp_path_factory.mktemp("ordinal") / "grades", colors)


@pytest.fixture(scope="module")
def grades_run(grades: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of a head on these images."""
    return train_from(grades, load_config(overrides=HEAD_ONLY), tmp_path_factory.mktemp("ordinal-runs") / "run")


def test_a_run_keeps_the_order_and_measures_by_it(grades_run: Run) -> None:
    assert (grades_run.classes, grades_run.ordered, grades_run.task) == (GRADES, True, "classification")
    stored = grades_run.metrics["test"]["ordinal"]
    assert {"quadratic_kappa", "mean_absolute_error", "within_one", "intervals"} == set(stored)
    evaluation = grades_run.evaluate("test")
    assert evaluation.ordinal is not None
    assert evaluation.ordinal.to_json() == stored
    assert evaluation.ordinal.quadratic_kappa is not None
    assert evaluation.ordinal.quadratic_kappa > 0.5
    options = load_run_config(grades_run.path / "config.toml").data
    assert (options.task, options.order) == ("ordinal", GRADES)


def test_the_documents_have_the_metrics_of_an_order(grades_run: Run, tmp_path: Path) -> None:
    assert "classes above, which have an order." in check_documents(grades_run, tmp_path)["datasheet"]


def test_a_loaded_run_answers_as_it_did(grades_run: Run, grades: Path) -> None:
    loaded = Run(grades_run.path)
    answers = predict(loaded, sorted((grades / "severe").glob("*.png")))
    assert answers[0].classes == GRADES
    assert np.mean([answer.label == "severe" for answer in answers]) > 0.6
    again = evaluate(loaded, grades)
    assert again.ordinal is not None
    assert again.count == 30
    assert again.overlap is not None
    (value, interval) = grades_run.evaluate("test").headline["quadratic weighted kappa"]
    assert again.overlap.scores["quadratic weighted kappa"][0] == pytest.approx(value)
    assert again.overlap.scores["quadratic weighted kappa"][1] == pytest.approx(interval)
    assert "and the quadratic weighted kappa of" in again.cautions()[0]


def test_report_and_card_say_the_order_and_the_distance(grades_run: Run) -> None:
    page = (grades_run.path / "report.html").read_text(encoding="utf-8")
    assert "Order of the classes" in page
    assert "Quadratic weighted kappa" in page
    card = (grades_run.path / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "quadratic_weighted_kappa" in card
    assert "| Mean absolute error (steps) |" in card


def test_exports_answer_as_the_run_and_know_the_order(grades_run: Run, grades: Path, tmp_path: Path) -> None:
    (result,) = export(grades_run, "exported-program", out=tmp_path)  # which compares both
    exported = ExportedModel(result.path, trust=True)
    assert exported.ordered
    evaluation = evaluate(exported, grades)
    assert evaluation.ordinal is not None
    with pytest.raises(UsageError, match="no linear function"):
        export(grades_run, "onnx", with_maps=True, out=tmp_path / "maps")


def test_fine_tuning_has_the_same_loss_and_can_be_resumed(grades: Path, tmp_path: Path) -> None:
    settings = HEAD_ONLY | {
        "training.finetune_epochs": 1, "training.views": 1, "training.batch_size": 8, "training.finetune_lr": 1e-4,
        "training.monitor": "val_quadratic_kappa", "training.keep_finetuned": "always",
    }  # fmt: skip
    run = train_from(grades, load_config(overrides=settings), tmp_path / "run")
    head = next(row for row in run.head_path if row["chosen"])
    assert run.history[-1]["train_loss"] < 3 * max(0.2, head["train_loss"])
    more = resume(run.path, finetune_epochs=2)
    assert (more.classes, more.ordered) == (GRADES, True)
    assert len(more.history) == 2


def test_a_head_of_layers_is_trained_by_steps(grades: Path, tmp_path: Path) -> None:
    settings = HEAD_ONLY | {"model.head": "mlp", "model.head_widths": (8,), "training.head_epochs": 2}
    run = train_from(grades, load_config(overrides=settings), tmp_path / "run")
    assert run.metrics["test"]["ordinal"]["mean_absolute_error"] <= 2


def test_cross_validation_measures_by_the_order(grades: Path) -> None:
    result = cross_validate(grades, 3, config=load_config(overrides=HEAD_ONLY))
    assert result.predictions.classes == GRADES
    assert result.evaluation.ordinal is not None
    assert result.to_json()["evaluation"]["ordinal"]["quadratic_kappa"] > 0.5


def test_python_builds_and_trains_the_same(grades: Path, tmp_path: Path) -> None:
    parts = split(scan(grades, task="ordinal", order=GRADES), train=0.4, val=0.3, test=0.3)
    assert parts.dataset.model_task == "ordinal"
    assert any("lowest first: none, mild, severe" in note for note in parts.dataset.notes)
    model = build(classes=parts.classes, task=parts.dataset.model_task, image_size=32)
    run = train(model, parts, out=tmp_path / "run", finetune_epochs=0)
    assert run.ordered
    plain = build(classes=parts.classes, image_size=32)
    with pytest.raises(UsageError, match='task="ordinal"'):
        train(plain, parts, out=tmp_path / "none", finetune_epochs=0)


def test_a_table_of_numbers_has_their_order(grades: Path, tmp_path: Path) -> None:
    rows = [f"{grades / name / f'{i}.png'},{10 * (number + 1)}" for number, name in enumerate(GRADES) for i in range(4)]
    table = tmp_path / "ages.csv"
    table.write_text("path,age\n" + "\n".join(rows))
    data = scan(table, task="ordinal")
    assert data.classes == ("10", "20", "30")
    assert inspect(table, task="ordinal", labels=False).dataset.ordered
    split_into(table, tmp_path / "parts", task="ordinal")  # which needs no order
    assert {path.name for path in (tmp_path / "parts" / "train").iterdir()} == {"10", "20", "30"}


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"data.order": ""}, "--order"),
        ({"data.order": "none,mild"}, "does not name severe"),
        ({"data.task": "multilabel"}, "the task is multilabel"),
        ({"model.backbone": "efficientnet_lite0,resnet18"}, "several backbones"),
        ({"data.unlabelled": "elsewhere"}, "data.unlabelled"),
        ({"training.loss": "binary_cross_entropy"}, "judges each class"),
        ({"data.task": "classification", "data.order": "", "training.monitor": "val_quadratic_kappa"}, "val_quadratic"),
    ],
)
def test_what_has_no_meaning_or_no_way_is_refused(
    settings: dict[str, str], what: str, grades: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=what):
        train_from(grades, load_config(overrides=HEAD_ONLY | settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_tree_has_no_order(grades: Path) -> None:
    with pytest.raises(UsageError, match="tree above the classes"):
        scan(grades, task="ordinal", order=GRADES, taxonomy={"none": "well", "mild": "ill", "severe": "ill"})


def test_what_grows_or_changes_a_run_is_refused(grades_run: Run, grades: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="It works without the order: train with --task classification"):
        change_classes(grades_run, rename={"none": "clear"}, out=tmp_path / "renamed")
    with pytest.raises(UsageError, match="--from"):
        train_from(grades, load_config(overrides={"run.from_run": str(grades_run.path)}), tmp_path / "more")
    config = load_config(overrides=HEAD_ONLY)
    taught = dataclasses.replace(config.distillation, teacher=str(grades_run.path))
    with pytest.raises(UsageError, match="teacher"):
        train_from(grades, config.model_copy(update={"distillation": taught}), tmp_path / "student")
