"""A student that learns from a teacher is an ordinary run, and says how much of the teacher's gain it keeps."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import regraft
from regraft.config import Config, load_config, load_run_config
from regraft.data.dataset import Dataset
from regraft.errors import BudgetError, ConfigError, DataError, UsageError
from regraft.evaluation.predictions import Predictions
from regraft.models.classifier import Classifier
from regraft.runs import budget
from regraft.runs import distill as distill_module
from regraft.runs import teacher as teacher_module
from regraft.runs.distill import distill, kept_gain, resume_distillation, train_and_distill
from regraft.runs.evaluate import predict_dataset
from regraft.runs.plan import plan_from
from regraft.runs.resume import resume
from regraft.runs.run import Run
from regraft.runs.run_images import split_rows
from regraft.runs.teacher import probabilities_of
from regraft.runs.train import train_from
from regraft.studies.compare.compare import compare
from regraft.studies.cross_validation import cross_validate
from regraft.studies.learning_curve.learning_curve import learning_curve
from regraft.studies.tune.tune import tune
from regraft.training import trainer
from regraft.training.budget import Room
from regraft.training.callbacks import NullReporter

OPTIONS: dict[str, Any] = {"image_size": 32, "finetune_epochs": 1, "views": 2, "batch_size": 8}
INTO = "efficientnet_lite0"


@pytest.fixture(scope="module")
def student(squares_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A student of `squares_run` and, in its folder, the same model on the labels alone."""
    return distill(squares_run, into=INTO, out=tmp_path_factory.mktemp("distilled") / "small", **OPTIONS)


def test_a_small_model_is_the_last_step_of_a_training(
    squares_folder: Path, tmp_path: Path, fast_settings: dict[str, Any]
) -> None:
    config = load_config(overrides={**fast_settings, "model.backbone": "efficientnet_lite0,mobilenetv3"})
    config = config.model_copy(update={"model": replace(config.model, weights="none")})
    run = train_and_distill(squares_folder, config, INTO, tmp_path / "small")
    assert run.path == tmp_path / "small"
    assert Run(tmp_path / "small" / "teacher").metrics["model"]["backbone"] == "efficientnet_lite0,mobilenetv3"
    assert run.metrics["model"]["backbone"] == INTO
    assert parts_of(run) == parts_of(Run(tmp_path / "small" / "teacher"))
    assert set(run.metrics["distillation"]["result"]) >= {"teacher", "student", "plain"}


def parts_of(run: Run) -> dict[str, str]:
    """Path -> part of the images of a run."""
    return {row["path"]: row["part"] for row in split_rows(run.path)}


def test_the_student_is_a_run_with_the_teachers_split(student: Run, squares_run: Run) -> None:
    assert parts_of(student) == parts_of(squares_run)
    config = load_run_config(student.path / "config.toml")
    assert config.distillation.teacher == str(squares_run.path.resolve())
    assert config.data.val == 0.25  # as the teacher's
    assert student.metrics["distillation"]["teacher"]["backbone"] == INTO
    assert regraft.predict(student, student.path / "plots" / "confusion_matrix.png")[0].classes == student.classes


def test_the_report_and_the_card_name_the_teacher(student: Run, squares_run: Run) -> None:
    for file in ("report.html", "MODEL_CARD.md"):
        text = (student.path / file).read_text().replace("\N{NO-BREAK SPACE}", " ")
        assert f"a teacher, {squares_run.path.name} (" in text
        assert "trained on the labels alone" in text
        assert str(squares_run.path.parent) not in text or file == "report.html"  # which contains config.toml


def test_the_baseline_has_no_teacher_and_else_the_same_settings(student: Run) -> None:
    plain = Run(student.path / "plain")
    ours, theirs = (load_run_config(run.path / "config.toml") for run in (student, plain))
    assert not theirs.distillation.teacher
    assert theirs.training == ours.training
    assert theirs.model == ours.model
    assert parts_of(plain) == parts_of(student)
    assert "distillation" not in plain.metrics


def test_the_result_is_that_of_the_three_runs(student: Run, squares_run: Run) -> None:
    result = student.metrics["distillation"]["result"]
    runs = {"student": student, "plain": Run(student.path / "plain"), "teacher": squares_run}
    assert {name: result[name] for name in runs} == {name: run.evaluate().accuracy for name, run in runs.items()}
    assert (result["part"], result["count"]) == ("test", 9)


def test_what_was_interrupted_is_continued(student: Run, tmp_path: Path) -> None:
    out = tmp_path / "small"
    out.mkdir()
    for name in ("source.json", "config.toml", "split.csv"):  # what a run that is killed before the head consists of
        shutil.copy(student.path / name, out)
    alone = resume(out)
    assert (out / "model.safetensors").read_bytes() == (student.path / "model.safetensors").read_bytes()
    assert "result" not in alone.metrics["distillation"]
    assert (
        resume_distillation(out, baseline=student.path / "plain").metrics["distillation"]["result"]
        == (student.metrics["distillation"]["result"])
    )


def test_a_student_whose_views_have_no_room_is_continued(
    squares_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ctrl_c(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(budget, "_room", lambda config: Room(disk=0, memory=0))
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "finetune", ctrl_c)
        stopped = distill(squares_run, into=INTO, out=tmp_path / "run", baseline="none", **OPTIONS)
    assert stopped.metrics["training"]["stopped"] == "interrupted"
    assert load_run_config(stopped.path / "config.toml").training.feature_cache == "none"
    assert stopped.metrics["distillation"]["views"] == 1  # each step has new ones
    finished = resume_distillation(stopped.path)
    assert finished.metrics["training"]["stopped"] is None
    assert [row["phase"] for row in finished.history] == ["finetune"]


def test_a_continued_distillation_has_its_baseline(
    squares_run: Run, student: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ctrl_c(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(student.path)
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "finetune", ctrl_c)
        distill(squares_run, into=INTO, out=out, baseline="plain", **OPTIONS)
    monkeypatch.chdir(tmp_path)
    finished = resume_distillation(out)
    assert finished.metrics["distillation"]["baseline"] == str((student.path / "plain").resolve())
    assert finished.metrics["distillation"]["result"] == student.metrics["distillation"]["result"]
    assert not (out / "plain").exists()


def test_a_baseline_without_time_leaves_the_student(
    squares_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    class Listening(NullReporter):
        def on_message(self, text: str) -> None:
            said.append(text)

    def train(data: Any, config: Config, out: Path | None, **options: Any) -> Run:
        if not config.distillation.teacher:
            raise BudgetError("The rest of the budget, 1 s, is too short.")
        return train_from(data, config, out, **options)

    monkeypatch.setattr(distill_module, "train_from", train)
    options = {**OPTIONS, "finetune_epochs": 0}
    run = distill(squares_run, into=INTO, out=tmp_path / "run", reporter=Listening(), **options)
    assert "result" not in run.metrics["distillation"]
    assert said[-1].endswith(f"is too short. Without a limit: regraft distill --resume {run.path}")
    monkeypatch.undo()
    assert "result" in resume_distillation(run.path).metrics["distillation"]


def test_only_training_images_are_taught(
    squares_run: Run, student: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Dataset] = []

    def ask(teacher: Classifier, dataset: Dataset, *rest: Any, views: int, **options: Any) -> np.ndarray:
        asked.append(dataset)
        return np.full((views, len(dataset), len(teacher.classes)), 1 / len(teacher.classes))

    monkeypatch.setattr(teacher_module, "probabilities_of", ask)
    run = distill(squares_run, into=INTO, out=tmp_path / "run", baseline="none", soft_share=1, **OPTIONS)
    known = parts_of(student)
    assert {known[sample.path] for dataset in asked for sample in dataset.samples} == {"train"}
    assert run.metrics["train"]["accuracy"] < 0.9  # it has learned that all classes are equally likely
    assert "result" not in run.metrics["distillation"]


def test_unlabeled_images_are_taught_unless_they_are_held_out(
    squares_run: Run, squares_folder: Path, tmp_path: Path
) -> None:
    held_out = [row["path"] for row in split_rows(squares_run.path) if row["part"] != "train"]
    more = tmp_path / "more"
    more.mkdir()
    for number, path in enumerate(held_out):
        shutil.copy(squares_folder / path, more / f"{number}.png")
    rng = np.random.default_rng(5)
    for number in range(6):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3)).astype(np.uint8)).save(more / f"new-{number}.png")
    run = distill(squares_run, into=INTO, unlabelled=more, out=tmp_path / "run", baseline="none", **OPTIONS)
    unlabeled = run.metrics["distillation"]["unlabelled"]
    assert unlabeled["usable"] == 6
    assert sum(unlabeled["left_out"].values()) == len(held_out)
    assert "of 6 unlabeled images they are all" in (run.path / "report.html").read_text()


def test_the_teacher_says_what_it_predicts_and_sees_each_view_once(
    squares_run: Run, squares: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(overrides={"training.precision": "off"})
    progress: list[int] = []

    class Counting(NullReporter):
        def on_progress(self, name: str, done: int, total: int, detail: str = "") -> None:
            progress.append(done)

    def ask() -> np.ndarray:
        return probabilities_of(squares_run.classifier, squares, config, Counting(), views=2, name="teacher")

    said = ask()
    expected = predict_dataset(squares_run.classifier, squares).probabilities
    assert np.allclose(said[0], expected, atol=1e-4)
    assert not np.allclose(said[1], said[0], atol=1e-3)
    assert max(progress) == 2 * len(squares)
    progress.clear()
    assert np.array_equal(ask(), said)
    assert not progress


def test_several_backbones_teach_one(squares_folder: Path, fast_settings: dict[str, Any], tmp_path: Path) -> None:
    settings = {**fast_settings, "model.image_size": 0, "training.finetune_epochs": 0, "training.views": 0}
    backbones = "efficientnet_lite0@32,mobilenetv2@32"
    teacher = train_from(
        squares_folder, load_config(overrides={**settings, "model.backbone": backbones}), tmp_path / "teacher"
    )
    run = distill(teacher, into=INTO, image_size=32, finetune_epochs=0, out=tmp_path / "run", baseline="none")
    assert "mobilenetv2" in run.metrics["distillation"]["teacher"]["backbone"]
    assert run.metrics["distillation"]["views"] == 1
    assert run.evaluate().accuracy > 0.6
    with pytest.raises(UsageError, match="has several backbones, and a teacher teaches one"):
        distill(teacher, into=backbones, finetune_epochs=0, out=tmp_path / "several")


@pytest.mark.parametrize("study", [plan_from, tune, learning_curve, compare, cross_validate])
def test_other_commands_refuse_a_teacher(study: Any, squares_run: Run, squares_folder: Path) -> None:
    config = load_config(overrides={"distillation.teacher": str(squares_run.path)})
    with pytest.raises(UsageError, match="It works with `regraft distill` and `regraft train`"):
        study(squares_folder, config=config, **({"reporter": NullReporter()} if study is plan_from else {}))


def _predictions(right: list[bool]) -> Predictions:
    labels = np.zeros(len(right), np.int64)
    rows = np.array([[0.9, 0.1] if correct else [0.1, 0.9] for correct in right])
    return Predictions(tuple(map(str, range(len(right)))), labels, rows, ("a", "b"), ("test",) * len(right))


def test_the_kept_share_is_that_of_the_gain() -> None:
    plain, teacher = [True] * 60 + [False] * 40, [True] * 80 + [False] * 20
    student = [True] * 50 + [False] * 10 + [True] * 25 + [False] * 15
    result = kept_gain(*map(_predictions, (student, teacher, plain)))
    assert result.kept == pytest.approx((0.75 - 0.6) / (0.8 - 0.6))
    assert (result.gain.only_first, result.gain.only_second) == (25, 10)
    assert result.gain.interval[0] < 0.15 < result.gain.interval[1]
    assert kept_gain(*map(_predictions, (student, plain, teacher))).kept is None


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"finetune_epoch": 1}, ConfigError, "finetune_epoch"),
        ({"soft_share": 2}, ConfigError, "distillation.soft_share"),
        ({"baseline": "missing"}, UsageError, "missing does not exist"),
        ({"baseline": 3}, UsageError, "The baseline is a int; expected a path"),
    ],
)
def test_wrong_options_are_refused_before_any_work(
    squares_run: Run, tmp_path: Path, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        distill(squares_run, into=INTO, out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_teacher_is_a_run(squares_run: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a run or its folder"):
        distill(squares_run.classifier, into=INTO)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="expected the folder of a run"):
        load_config(overrides={"distillation.teacher": str(tmp_path)})


def test_a_baseline_of_other_images_is_refused(squares_run: Run, student: Run, tmp_path: Path) -> None:
    shutil.copytree(student.path / "plain", tmp_path / "other")
    file = tmp_path / "other" / "predictions.csv"
    file.write_text(file.read_text().replace("red/", "other/"))
    with pytest.raises(DataError, match="cannot be compared with the teacher"):
        distill(squares_run, into=INTO, out=tmp_path / "run", baseline=tmp_path / "other")


def test_a_teacher_of_other_classes_is_refused(
    squares_run: Run, squares_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(squares_folder / "red", tmp_path / "data" / "red")
    shutil.copytree(squares_folder / "green", tmp_path / "data" / "yellow")
    with pytest.raises(UsageError, match="knows the classes blue, green, red"):
        distill(squares_run, into=INTO, data=tmp_path / "data", **OPTIONS)
    assert not any(tmp_path.glob("runs/*"))
    with pytest.raises(UsageError, match="has no teacher"):
        resume_distillation(squares_run.path)
