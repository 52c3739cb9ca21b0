"""Learning curve: how much more images would bring, in all and for each class."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from regraft.atomic_io import write_json
from regraft.cache import Cache
from regraft.config import Config
from regraft.data.dataset import Dataset
from regraft.data.labels import Task
from regraft.data.pooling import groups_of, per_answer
from regraft.data.split import fold_numbers, inseparable_set_counts, inseparable_set_ids
from regraft.errors import DataError, UsageError
from regraft.evaluation.majority import compare_with_majority
from regraft.evaluation.metrics import confusion_matrix
from regraft.evaluation.ordinal import drawn_kappa
from regraft.runs.prepare import build_for
from regraft.runs.progress import with_progress
from regraft.runs.scan_and_split import (
    asked_task,
    refuse_settings_of_classes,
    refuse_settings_of_images,
    scan_with,
)
from regraft.runs.teacher import refuse_teacher
from regraft.runs.unlabelled import refuse_unlabeled
from regraft.studies.answered import Answered
from regraft.studies.cross_validation import new_output_folder, refuse_existing
from regraft.studies.learning_curve.extrapolation import (
    ClassCurve,
    Curve,
    Interval,
    describe_gain,
    draw_scores,
    draw_weights,
    extrapolate,
    judge_gain,
    measured_intervals,
    single_class_gain,
)
from regraft.studies.learning_curve.label_curve import MultilabelLearningCurve, fit_label_curves
from regraft.studies.learning_curve.number_curve import NumberLearningCurve, fit_number_curves
from regraft.studies.learning_curve.plots import ClassGain, ClassGains, ScoreCurve, plot_learning_curve
from regraft.studies.learning_curve.subsets import SubsetPredictions, predict_by_subsets
from regraft.studies.learning_curve.table import write_curves
from regraft.text import join_truncated, pluralize
from regraft.training.callbacks import NullReporter, ProgressReporter
from regraft.training.frozen_features import frozen_features
from regraft.training.losses import units_of
from regraft.training.pooling import mean_rows

#: Number of folds, and images of each class (groups of them) that a curve needs.
FOLDS, MIN_GROUPS = 5, 8
#: Shares of the images of each class, and mean images of a class that shares below a quarter need.
_SHARES, _MIN_MEAN_IMAGES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0), 3
#: Classes, of which a number is one, as if numbers were classes: a subset needs a few images of each.
_NUMBER_CLASSES = 4
#: Classes up to which each is also halved alone, and images above which one repeat is enough.
_MAX_HALVED_CLASSES, _ONE_REPEAT = 12, 2000


@dataclass(frozen=True, eq=False)
class LearningCurve:
    """Scores by the number of images, or of groups of images that get one answer each.

    Attributes:
        images: Number of images, or of groups.
        accuracy: Accuracy by images of all classes together.
        macro_f1: Macro-F1 by the same.
        classes: Curve of each class, in class order.
        heads: Number of heads that were fitted.
        repeats: Number of divisions into five folds.
        seconds: Wall-clock time: `scan`, `features`, `heads`, `curves`, `total`.
        answered: The images, or the groups, in words.
        at_chance: Why nothing is extrapolated: the head is not clearly better than the majority class; "" if it is.
        quadratic_kappa: Quadratic weighted kappa at each size of `accuracy`, not extrapolated; None unless the classes
            have an order.
    """

    task: ClassVar[Task] = "classification"

    images: int
    accuracy: Curve
    macro_f1: Curve
    classes: tuple[ClassCurve, ...]
    heads: int
    repeats: int
    seconds: dict[str, float]
    answered: Answered
    at_chance: str = ""
    quadratic_kappa: tuple[Interval, ...] | None = None

    def __repr__(self) -> str:
        if self.at_chance:
            return f"LearningCurve({self.answered.text}, at chance, not extrapolated)"
        gain = describe_gain(self.accuracy.gain, self.accuracy.verdict)
        return f"LearningCurve({self.answered.text}, accuracy {self.accuracy.measured[-1].value:.3f}, doubling {gain})"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        unit = self.answered.unit
        curves: dict[str, Any] = {"accuracy": self.accuracy.to_json(unit), "macro_f1": self.macro_f1.to_json(unit)}
        if self.at_chance:
            curves = {name: {"measured": curve["measured"]} for name, curve in curves.items()}
        else:
            curves["classes"] = [row.to_json(unit) for row in self.classes]
        if self.quadratic_kappa is not None:
            points = zip(self.accuracy.sizes, self.quadratic_kappa, strict=True)
            curves["quadratic_kappa"] = {"measured": [{unit: size} | asdict(kappa) for size, kappa in points]}
        about = {unit: self.images, "folds": FOLDS, "repeats": self.repeats, "heads": self.heads}
        return about | {"withheld": self.at_chance or None, **curves, "seconds": self.seconds}

    def write(self, folder: Path) -> None:
        """Write `learning_curve.csv`, `.png` and `.json` into a folder; at chance without what is extrapolated."""
        unit, curves = self.answered.unit, [("accuracy", "", self.accuracy), ("macro_f1", "", self.macro_f1)]
        curves += [("recall", row.name, row.recall) for row in self.classes]
        kappas = [
            ("quadratic_kappa", "", size, "measured", kappa.value, kappa.low, kappa.high)
            for size, kappa in zip(self.accuracy.sizes, self.quadratic_kappa or (), strict=False)
        ]
        write_curves(folder / "learning_curve.csv", curves, unit, measured_only=bool(self.at_chance), more=kappas)
        rows = [(row, row.gain_alone, row.verdict_alone) for row in self.classes]
        is_alone = all(gain and verdict for _, gain, verdict in rows)
        gains = [
            ClassGain(row.name, row.images, gain, verdict)
            if is_alone and gain and verdict
            else ClassGain(row.name, row.images, row.recall.gain, row.recall.verdict)
            for row, gain, verdict in rows
        ]
        plot_learning_curve(
            ScoreCurve(self.accuracy, "Accuracy"), ClassGains(gains, "recall", is_alone),
            folder / "learning_curve.png", unit=unit, at_chance="the most frequent class" if self.at_chance else "",
        )  # fmt: skip
        write_json(folder / "learning_curve.json", self.to_json())  # last: where it is, all is


@with_progress
def learning_curve(
    data: Dataset | Path | str,
    *,
    repeats: int | None = None,
    each: bool | None = None,
    config: Config | None = None,
    out: Path | str | None = None,
    reporter: ProgressReporter | None = None,
) -> LearningCurve | MultilabelLearningCurve | NumberLearningCurve:
    """Measure the head on nested subsets of the images, and extrapolate to twice as many.

    Five folds are held out in turn; heads are fitted on 1/16, 1/8, 1/4, 1/2 and all of the images of each class in the
    other four. An inverse power law extrapolates the curve. Near duplicates and groups are never divided; where groups
    get one answer, they are counted. There is no fine-tuning. Of several labels an image, the score is mean average
    precision; of numbers it is R2, beside the mean absolute error.

    Args:
        data: A data set, or a path that `scan` takes; its parts are merged.
        repeats: Number of divisions into folds, at least 1. Default: 2, and 1 above 2,000 images.
        each: Whether to halve each class alone too, which needs a head for each class and fold, and images that have
            one class. Default: up to 12 classes.
        config: Configuration, of which the settings of data and model and the seed count.
        out: New folder for `learning_curve.json`, `.csv` and `.png`. Default: nothing is written.
        reporter: Reporter that gets the progress; default: that of the notebook or terminal.

    Raises:
        UsageError: `repeats` is too small, the folder exists, or a setting has no meaning for the task of the data or
            for groups.
        DataError: As `scan`, there is one class only, or there are too few images of a class, or in all.

    Examples:
        >>> curve = regraft.learning_curve("photos", repeats=1, each=False)
        >>> curve.images
        36
    """
    config, reporter = config or Config(), reporter or NullReporter()
    if repeats is not None and repeats < 1:
        raise UsageError(f"{repeats} repeats; expected at least 1.")
    refuse_existing(out)
    clock, cache = [time.perf_counter()], Cache()
    refuse_unlabeled(config, "regraft learning-curve")
    refuse_teacher(config, "regraft learning-curve")
    _refuse_each(asked_task(config), each)
    refuse_settings_of_classes(asked_task(config), config)
    dataset = data if isinstance(data, Dataset) else scan_with(config, data, cache, reporter)
    _refuse_each(dataset.task, each)
    refuse_settings_of_classes(dataset.model_task, config)
    refuse_settings_of_images(dataset.pool_by, config)
    _refuse_few_images(dataset)
    clock.append(time.perf_counter())
    features = frozen_features(build_for(config, dataset), dataset, cache, reporter)
    clock.append(time.perf_counter())
    seed, classes, answered = config.training.seed, len(dataset.classes), Answered.of(dataset)
    repeats = repeats or (1 if len(answered.names) > _ONE_REPEAT else 2)
    folds = [fold_numbers(dataset, FOLDS, seed=f"{seed}/{repeat}" if repeat else seed) for repeat in range(repeats)]
    groups = inseparable_set_ids(dataset.samples)
    if (pooled := groups_of(dataset)) is not None:
        features, dataset, groups = mean_rows(features, pooled), per_answer(dataset), groups[pooled.firsts]
        folds = [fold[pooled.firsts] for fold in folds]
    labels, is_plain = dataset.targets, dataset.task == "classification"
    if dataset.task == "regression":
        center, scale = units_of(torch.from_numpy(labels))
        labels = ((labels.astype(np.float64) - center) / scale).astype(np.float32)
    each = is_plain and classes <= _MAX_HALVED_CLASSES if each is None else each
    if is_plain and not each:
        reporter.on_message(
            f"{pluralize(classes, 'class', 'classes')}: the gain by doubling one class alone is not measured, since it "
            f"needs {FOLDS * classes} more heads (--each)."
        )
    shares = _shares(dataset)
    predictions = predict_by_subsets(
        features, labels, groups, folds, shares, reporter, classes=classes, halves=each, seed=seed,
        task=dataset.model_task,
    )  # fmt: skip
    clock.append(time.perf_counter())
    count, heads = len(dataset), predictions.heads
    result: LearningCurve | MultilabelLearningCurve | NumberLearningCurve
    if dataset.task == "multilabel":
        precision, f1, of_labels = fit_label_curves(
            predictions, dataset.indicators, groups, folds, dataset.classes, seed=seed
        )
        recognized = {row.name for row in of_labels}
        weak = tuple(name for name in dataset.classes if name not in recognized)
        seconds = _seconds(clock)
        result = MultilabelLearningCurve(
            count, precision, f1, of_labels, heads, repeats, FOLDS, seconds, answered, weak
        )
    elif dataset.task == "regression":
        r2, mae, at_chance = fit_number_curves(predictions, dataset.numbers, groups, seed=seed)
        seconds, quantity = _seconds(clock), dataset.classes[0]
        result = NumberLearningCurve(count, quantity, r2, mae, heads, repeats, FOLDS, seconds, answered, at_chance)
    else:
        accuracy, macro_f1, class_curves = fit_curves(predictions, labels, groups, dataset.classes, seed=seed)
        kappa = _kappa_by_size(predictions, labels, groups, classes, seed=seed) if dataset.ordered else None
        confusion = confusion_matrix(labels, predictions.predicted[0, -1], classes)
        at_chance = "".join(compare_with_majority(confusion).objection(dataset.classes))
        result = LearningCurve(
            count, accuracy, macro_f1, class_curves, heads, repeats, _seconds(clock), answered, at_chance, kappa
        )
    if out is not None:
        result.write(new_output_folder(out))
    return result


def _seconds(clock: list[float]) -> dict[str, float]:
    """The durations of the steps that end at these moments, and now."""
    clock = [*clock, time.perf_counter()]
    seconds = dict(zip(("scan", "features", "heads", "curves"), np.diff(clock).tolist(), strict=True))
    return seconds | {"total": clock[-1] - clock[0]}


def _shares(dataset: Dataset) -> tuple[float, ...]:
    """Shares of the images of a data set that heads are fitted on."""
    if dataset.task == "multilabel":
        return subset_shares(int(dataset.indicators.sum()), len(dataset.classes))
    return subset_shares(len(dataset), _NUMBER_CLASSES if dataset.task == "regression" else len(dataset.classes))


def subset_shares(images: int, classes: int) -> tuple[float, ...]:
    """Shares of the images of each class that heads are fitted on: those that leave a few of a class."""
    mean = images * (1 - 1 / FOLDS) / classes
    return tuple(share for share in _SHARES if share >= 1 / 4 or share * mean >= _MIN_MEAN_IMAGES)


def fit_curves(
    predictions: SubsetPredictions, labels: np.ndarray, groups: np.ndarray, names: Sequence[str], *, seed: int = 0
) -> tuple[Curve, Curve, tuple[ClassCurve, ...]]:
    """Curves of accuracy, macro-F1 and each class; `groups`, int64 (N,), are drawn as a whole by the bootstrap."""
    classes, count = len(names), len(labels)
    weights = draw_weights(groups, seed=seed)
    scores = draw_scores(predictions.predicted, labels, classes, weights)
    sizes, support = predictions.counts.sum(axis=1), np.bincount(labels, minlength=classes)
    accuracy, law = extrapolate(sizes, scores.accuracy, count, count, seed=seed)
    macro_f1, _ = extrapolate(sizes, scores.macro_f1, count, count, seed=seed)
    full = draw_scores(predictions.predicted[:1, -1:], labels, classes, weights)
    rows = []
    for label, name in enumerate(names):
        own, total = predictions.counts[:, label], int(support[label])
        recall, _ = extrapolate(own, scores.recalls[:, :, label], total, total, seed=seed)
        if predictions.halved is None:
            rows.append(ClassCurve(name, total, recall))
            continue
        half = draw_scores(predictions.halved[None, label : label + 1], labels, classes, weights)
        ends = (law, predictions.half_counts[label], own[-1], total)
        alone = single_class_gain(half.recalls[:, 0, label], full.recalls[:, 0, label], *ends, images=total)
        alone_f1 = single_class_gain(half.macro_f1[:, 0], full.macro_f1[:, 0], *ends, images=count)
        rows.append(ClassCurve(name, total, recall, alone, alone_f1, judge_gain(alone)))
    return accuracy, macro_f1, tuple(rows)


def _kappa_by_size(
    predictions: SubsetPredictions, labels: np.ndarray, groups: np.ndarray, classes: int, *, seed: int
) -> tuple[Interval, ...]:
    """Quadratic weighted kappa by the size of the subsets, drawn as the curves are."""
    weights = draw_weights(groups, seed=seed)
    by_size = [drawn_kappa(at_size, labels, classes, weights) for at_size in predictions.predicted.swapaxes(0, 1)]
    return measured_intervals(np.stack(by_size, axis=1))


def _refuse_each(task: str, each: bool | None) -> None:
    if each and task in ("multilabel", "regression"):
        raise UsageError(
            f"--each halves the images of one class alone, for which an image must have one class, and the task of the "
            f"data is {task}. Leave it out."
        )


def _refuse_few_images(dataset: Dataset) -> None:
    unit = "groups" if dataset.pool_by else "images"
    if dataset.task == "regression":
        if (count := len(np.unique(inseparable_set_ids(dataset.samples)))) < _NUMBER_CLASSES * MIN_GROUPS:
            raise DataError(
                f"{count} {unit} that can be divided; expected at least {_NUMBER_CLASSES * MIN_GROUPS} for a curve of "
                "numbers."
            )
        return
    if dataset.task == "classification" and len(dataset.classes) < 2:
        raise DataError(f"{pluralize(len(dataset.classes), 'class', 'classes')}; expected at least 2.")
    counts = inseparable_set_counts(dataset.samples)
    if dataset.task == "multilabel":
        sets, has = inseparable_set_ids(dataset.samples), dataset.indicators
        for column, name in enumerate(dataset.classes):  # those without it are as needed as those with it
            counts[name] = min(len(np.unique(sets[has[:, column] == value])) for value in (True, False))
    few = [f"{name} ({counts[name]})" for name in dataset.classes if counts[name] < MIN_GROUPS]
    if few:
        beside = ", or others" if dataset.task == "multilabel" else ""
        raise DataError(
            f"{pluralize(len(few), 'class has', 'classes have')} fewer than {MIN_GROUPS} {unit}{beside} that can be "
            f"divided: {join_truncated(few)}. A curve needs at least {MIN_GROUPS} of each: add {unit}, or remove the "
            "class."
        )
