"""Distill a run into a smaller model, and measure how much of what the teacher knows more it has learned.

Input: a run, the teacher, and the settings of the student. Output: the student's run, trained by `regraft train`'s own
steps with the teacher's targets, a run of the same model on the labels alone, and in the student's `metrics.json` the
accuracies of all three, or their mean average precision where an image has several labels.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from regraft.atomic_io import write_json, write_text
from regraft.config import Config, RunOptions, load_config, load_run_config, setting_names
from regraft.config.presets import DEFAULT_PRESET
from regraft.data.dataset import Part
from regraft.data.sources.urls import absolute
from regraft.errors import BudgetError, DataError, Interrupted, UsageError, as_path, suggest_names
from regraft.evaluation.multilabel.metrics import MultilabelEvaluation
from regraft.evaluation.stored_predictions import find_predictions
from regraft.evaluation.tasks import AnyDifference, AnyEvaluation, AnyPredictions, evaluate_any, paired_difference_any
from regraft.models.registry import find_backbone
from regraft.runs.progress import with_progress
from regraft.runs.report import write_report
from regraft.runs.resume import resume
from regraft.runs.run import CONFIG, METRICS, SOURCE, Run, open_model
from regraft.runs.run_folder import new_folder
from regraft.runs.run_images import data_of, origin_of
from regraft.runs.scan_and_split import (
    asked_task,
    refuse_groups,
    refuse_numbers,
    refuse_order,
)
from regraft.runs.train_from import train_from
from regraft.text import in_shell
from regraft.training.callbacks import NullReporter, ProgressReporter
from regraft.training.distillation import DistillationOptions

#: Folders, in that of the student, of the model that is trained on the labels alone, and of a teacher of its own.
PLAIN, TEACHER = "plain", "teacher"
#: Settings of `distillation.baseline` that are no run: train one, or do without.
_TRAIN, _NONE = "train", "none"


@dataclass(frozen=True)
class KeptGain:
    """Scores of the teacher, the student and the same model trained on the labels alone, on the same images.

    Scores are in 0..1: the accuracy, or where an image has several labels the mean average precision (`metric`). `gain`
    is that of the student over the plain model, and `gap` that of the teacher over the student, each with its paired
    interval.
    """

    part: Part
    teacher: float
    student: float
    plain: float
    gain: AnyDifference
    gap: AnyDifference
    metric: Literal["accuracy", "mean_average_precision"] = "accuracy"

    @property
    def kept(self) -> float | None:
        """Share of the teacher's gain over the plain model that the student keeps; None if the teacher has no gain."""
        gain = self.teacher - self.plain
        return (self.student - self.plain) / gain if gain > 0 else None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "part": self.part,
            "metric": self.metric,
            "count": self.gain.count,
            "teacher": self.teacher,
            "student": self.student,
            "plain": self.plain,
            "kept": self.kept,
            "gain": self.gain.to_json(),
            "gap": self.gap.to_json(),
        }


@suggest_names
@with_progress
def distill(
    run: Run | Path | str,
    *,
    into: str,
    data: Path | str | None = None,
    unlabelled: Path | str | None = None,
    out: Path | str | None = None,
    baseline: Run | Path | str = "train",
    reporter: ProgressReporter | None = None,
    **options: Any,
) -> Run:
    """Train a smaller model on what a run says of its training images, and of unlabeled ones.

    The student has the teacher's split: its val and test images teach nothing. It is a run like any other, which
    `resume` continues; `run.metrics["distillation"]` says how much of the teacher's gain it keeps.

    Args:
        run: The teacher: a run or its folder.
        into: The student's backbone.
        data: The labeled images of the teacher. Default: their path in the run.
        unlabelled: Images without labels, as `scan` takes them: the teacher alone says what they show. Those that are
            val or test images, or nearly so, are left out. Default: those of the teacher, if it had any.
        out: The student's folder, which must not contain a run yet. Default: a new one under `runs/`.
        baseline: What the student is compared with: `train` trains the same model on the labels alone, in the folder
            `plain` of the student's; or a run of such a model; or `none`.
        reporter: As in `train`.
        **options: Settings by their name, such as `finetune_epochs=5`, `image_size=160` or `soft_share=0.5`.

    Raises:
        UsageError: The teacher or the baseline is no run, or an option is wrong.
        RunError: `out` contains a run already.
        RegraftError: Reading the data, loading the weights or the training failed.
        Interrupted: Ctrl-C has ended the training of the baseline; `resume_distillation` continues it. The student is
            finished. One that Ctrl-C has ended is returned, as by `train`.

    Examples:
        >>> small = regraft.distill("runs/photos", into="efficientnet_lite0", out="runs/small", finetune_epochs=1)
        >>> small.metrics["distillation"]["result"]["count"]
        9
    """
    started, reporter = time.monotonic(), reporter or NullReporter()
    teacher = open_model(run)
    if not isinstance(teacher, Run):
        raise UsageError(f"The teacher is a {type(run).__name__}; expected a run or its folder.")
    refuse_numbers(teacher.task, "`regraft distill`")
    refuse_order(teacher.ordered, "`regraft distill`")
    overrides = {_setting(name): value for name, value in options.items()}
    overrides |= {"model.backbone": into, "distillation.teacher": str(teacher.path)}
    overrides["data.unlabelled"] = None if unlabelled is None else str(unlabelled)
    overrides["distillation.baseline"] = str(_as_path(baseline))
    return distill_with(load_config(overrides=overrides), data, out, reporter=reporter, started=started)


def _setting(name: str) -> str:
    """The setting `section.key` of this name; an unknown name stays as it is, and is refused with the others."""
    return next((setting for setting in setting_names() if setting.rpartition(".")[2] == name), name)


def distill_with(
    config: Config,
    data: Path | str | None = None,
    out: Path | str | None = None,
    *,
    reporter: ProgressReporter | None = None,
    started: float | None = None,
) -> Run:
    """Train a configured student by its teacher, and compare it; as `distill`.

    A time budget, which starts at `started` (default: now), is divided between the student and the baseline.
    """
    reporter, started = reporter or NullReporter(), time.monotonic() if started is None else started
    teacher = Run(config.distillation.teacher)
    source = data if data is not None else data_of(teacher)
    if not source:
        raise UsageError(f"{teacher.path} was trained on images in memory. Give its labeled images.")
    if data is None and (origin := origin_of(teacher)) and origin.earlier:
        raise UsageError(
            f"{teacher.path} has learned from images of earlier runs beside those of {source}, and a student needs all "
            "of them in one place. Give it: --data DATA. Images that the teacher knows keep their parts."
        )
    config, budget = _with_baseline(config, config.distillation.baseline, teacher), config.training.budget
    if budget and config.distillation.baseline == _TRAIN:
        config = config.model_copy(update={"training": replace(config.training, budget=budget / 2)})
    student = train_from(source, config, out, reporter=reporter, started=started)
    left = budget and max(1.0, started + budget - time.monotonic())
    return _compare(student, teacher, config.distillation.baseline, reporter, left)


def train_and_distill(
    data: Path | str,
    config: Config,
    into: str,
    out: Path | str | None = None,
    *,
    reporter: ProgressReporter | None = None,
    started: float | None = None,
) -> Run:
    """Train a configured model, then a smaller one on what it says, whose run is returned.

    The first is in the folder `teacher` of this run. Half of a time budget, which starts at `started` (default: now),
    is for it. All settings but backbone and weights are those of both. Raises `Interrupted` with the teacher's folder
    after Ctrl-C in its training, and as `distill`.
    """
    reporter, started = reporter or NullReporter(), time.monotonic() if started is None else started
    find_backbone(into)
    refuse_numbers(config.data.task, "`regraft train --into`")
    refuse_order(asked_task(config) == "ordinal", "`regraft train --into`")
    refuse_groups(config.data.pool_by, "`regraft train --into`")
    path = new_folder(out, Path(absolute(data)).stem, into)
    training, budget = config.training, config.training.budget
    of_teacher = config.model_copy(update={"training": replace(training, budget=budget / 2)})
    teacher = train_from(data, of_teacher, path / TEACHER, reporter=reporter, started=started)
    if stopped := teacher.metrics["training"]["stopped"]:
        reporter.on_message(
            f"The teacher's training was stopped ({stopped}). "
            f"Continue: regraft train --resume {in_shell(teacher.path)}, "
            f"then regraft distill {in_shell(teacher.path)} --into {into} --out {in_shell(path)}"
        )
        raise Interrupted(teacher.path)
    reporter.on_message(f"{into} learns what {teacher.path} says.")
    left = budget and max(1.0, started + budget - time.monotonic())
    student = config.model_copy(
        update={
            "run": RunOptions(preset=config.run.preset if config.run.preset != "best" else DEFAULT_PRESET),
            "data": replace(config.data, keep_split=str(teacher.path)),
            "model": replace(config.model, backbone=into, weights="auto"),
            "training": replace(training, budget=left),
            "distillation": replace(config.distillation, teacher=str(teacher.path.resolve())),
        }
    )
    return distill_with(student, data, path, reporter=reporter)


@with_progress
def resume_distillation(
    path: Path | str, *, baseline: Run | Path | str | None = None, reporter: ProgressReporter | None = None
) -> Run:
    """Continue a distillation that was interrupted: its training, the baseline, and the comparison.

    A `baseline` as in `distill` replaces the one that the distillation was started with. Raises as `resume` and
    `distill`, and `UsageError` if the run has no teacher.
    """
    reporter, path = reporter or NullReporter(), Path(path)
    if not (path / CONFIG).is_file():
        return resume(path, reporter=reporter)  # which says what is missing
    config = load_run_config(path / CONFIG)
    if not config.distillation.teacher:
        raise UsageError(f"{path} has no teacher. Continue it by: regraft train --resume {in_shell(path)}")
    teacher = Run(config.distillation.teacher)
    if baseline is not None:
        config = _with_baseline(config, str(_as_path(baseline)), teacher)
        write_text(path / CONFIG, config.to_toml())
    return _compare(resume(path, reporter=reporter), teacher, config.distillation.baseline, reporter, 0.0)


def _as_path(baseline: Run | Path | str) -> Path:
    return baseline.path if isinstance(baseline, Run) else as_path(baseline, "The baseline")


def _with_baseline(config: Config, baseline: str, teacher: Run) -> Config:
    """The configuration with a baseline, of which a run has its whole path.

    Raises `UsageError` for something else, and `DataError` if it was evaluated on other images than the teacher.
    """
    if baseline not in (_TRAIN, _NONE):
        run = open_model(baseline)
        if not isinstance(run, Run):
            raise UsageError(f"The baseline {baseline} is no run; expected {_TRAIN}, {_NONE} or the folder of a run.")
        try:
            paired_difference_any(teacher.stored(), run.stored())
        except DataError as error:
            raise DataError(f"The baseline {run.path} cannot be compared with the teacher: {error}") from error
        baseline = str(run.path.resolve())
    return config.model_copy(update={"distillation": replace(config.distillation, baseline=baseline)})


def _compare(student: Run, teacher: Run, baseline: str, reporter: ProgressReporter, seconds: float) -> Run:
    """Complete the student's run with a comparison; a baseline trains within some seconds (0: no limit)."""
    if baseline == _NONE:
        return student
    not_compared, continued = (
        "The student is not compared with its teacher",
        f"regraft distill --resume {in_shell(student.path)}",
    )
    if stopped := student.metrics["training"]["stopped"]:
        reporter.on_message(f"{not_compared}, because it was stopped ({stopped}). Continue: {continued}")
        return student
    if not find_predictions(student.path):
        reporter.on_message(f"{not_compared}, because there are no val or test images.")
        return student
    try:
        plain = _train_plainly(student, reporter, seconds) if baseline == _TRAIN else Run(baseline)
    except BudgetError as error:
        reporter.on_message(f"{not_compared}: {error} Without a limit: {continued}")
        return student
    except KeyboardInterrupt as error:
        raise Interrupted(student.path) from error
    if stopped := plain.metrics["training"]["stopped"]:
        if stopped == "interrupted":
            raise Interrupted(student.path)
        reporter.on_message(f"{not_compared}, because the training of {plain.path} was stopped ({stopped}).")
        return student
    try:
        result = kept_gain(student.stored(), teacher.stored(), plain.stored())
    except (DataError, UsageError) as error:  # the data has grown since the teacher was trained
        reporter.on_message(f"{not_compared}: {error}")
        return student
    student.metrics["distillation"] |= {"baseline": str(plain.path), "result": result.to_json()}
    write_json(student.path / METRICS, student.metrics)
    write_report(student)
    return student


def kept_gain(student: AnyPredictions, teacher: AnyPredictions, plain: AnyPredictions) -> KeptGain:
    """Compare three models on the same images; `DataError` if the images or their labels differ."""
    gain, gap = paired_difference_any(student, plain), paired_difference_any(teacher, student)
    of_student, of_teacher, of_plain = (evaluate_any(predictions) for predictions in (student, teacher, plain))
    is_several = isinstance(of_student, MultilabelEvaluation)
    return KeptGain(
        "test" if "test" in student.parts else "val",
        _score(of_teacher), _score(of_student), _score(of_plain),
        gain, gap, "mean_average_precision" if is_several else "accuracy",
    )  # fmt: skip


def _score(evaluation: AnyEvaluation) -> float:
    """What models are compared by: the accuracy, or where an image has several labels the mean average precision."""
    if isinstance(evaluation, MultilabelEvaluation):
        return evaluation.mean_average_precision
    assert evaluation.accuracy is not None  # numbers have no teacher
    return evaluation.accuracy


def _train_plainly(student: Run, reporter: ProgressReporter, seconds: float) -> Run:
    """Train the student's model on the labels alone, with its settings; its prefix has run already, and is cached."""
    path = student.path / PLAIN
    reporter.on_message("The same model trains on the labels alone, for comparison.")
    if (path / SOURCE).is_file() and (path / CONFIG).is_file():
        return resume(path, reporter=reporter)
    config = load_run_config(student.path / CONFIG)
    # The student's budget has decided about epochs and views, so the baseline has a limit only where it needs one.
    is_short = 0 < seconds < student.metrics["time"]["train_seconds"]
    config = config.model_copy(
        update={
            "distillation": DistillationOptions(),
            "data": replace(config.data, unlabelled=""),
            "training": replace(config.training, budget=seconds if is_short else 0.0),
        }
    )
    return train_from(data_of(student), config, path, reporter=reporter)
