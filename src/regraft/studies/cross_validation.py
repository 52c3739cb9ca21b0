"""Cross-validate the head: every image is predicted by a head that was fitted without it and its near duplicates."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from regraft.atomic_io import write_csv, write_json
from regraft.cache import Cache
from regraft.cluster.executor import Cluster, open_executor
from regraft.config import Config
from regraft.data.dataset import Dataset
from regraft.data.labels import Task
from regraft.data.pooling import groups_of, per_answer
from regraft.data.split import fold_numbers, inseparable_set_counts, inseparable_set_ids
from regraft.errors import DataError, RunError, UsageError
from regraft.evaluation.hierarchy import measure_hierarchy
from regraft.evaluation.intervals import wilson_interval
from regraft.evaluation.label_errors import find_label_errors
from regraft.evaluation.metrics import Evaluation, evaluate
from regraft.evaluation.multilabel.metrics import mean_average_precision
from regraft.evaluation.predictions import Predictions
from regraft.evaluation.stored_predictions import write_predictions
from regraft.report import plots
from regraft.runs.prepare import build_for
from regraft.runs.progress import with_progress
from regraft.runs.scan_and_split import (
    asked_task,
    refuse_settings_of_classes,
    refuse_settings_of_images,
    scan_with,
)
from regraft.runs.teacher import refuse_teacher
from regraft.runs.unlabelled import find_unlabeled_for
from regraft.studies.answered import Answered
from regraft.studies.label_cross_validation import MultilabelCrossValidation, score_labels
from regraft.studies.number_cross_validation import NumberCrossValidation, score_numbers
from regraft.text import join_truncated, pluralize
from regraft.training.callbacks import NullReporter, ProgressReporter
from regraft.training.cross_val_predict import cross_val_predict, cross_val_predict_with_unlabeled
from regraft.training.frozen_features import frozen_features
from regraft.training.losses import weights_of_classes
from regraft.training.pooling import mean_rows
from regraft.training.soft_labels import check_labels, part_to_use

_LABEL_ERRORS = ("path", "label", "looks_like", "probability")

#: What other tasks than one class for each image make of the answers out of fold, the folds and the seconds.
_SCORES: Mapping[
    Task,
    Callable[
        [Dataset, Answered, Sequence[np.ndarray], Sequence[np.ndarray], dict[str, float]],
        MultilabelCrossValidation | NumberCrossValidation,
    ],
] = {"multilabel": score_labels, "regression": score_numbers}


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """Scores of the head on images that it has not seen.

    Attributes:
        k: Number of folds.
        accuracy: Accuracy on all images, mean over the repeats, 0..1.
        accuracies: Accuracy on the held-out images of each fold, float64 (repeats, k), 0..1.
        macro_f1s: Macro-F1 on the same, float64 (repeats, k), 0..1.
        predictions: Out-of-fold predictions of every image, in the first repeat.
        evaluation: Evaluation of these predictions.
        suspects: Name, label, suggested class and its probability of each label that is likely wrong, the likeliest
            first; by the mean of the repeats' probabilities. None where `evaluation.at_chance` says why.
        answered: The images that are predicted, or the groups, if each has one answer; a suspect is named as there.
        seconds: Wall-clock time: `scan`, `features`, `heads`, `total`.
        unlabeled: With images without labels: how many were found, can be used and were left out, how many of them
            were compared, the number of folds in which they help, of how many, and the accuracy without them. Else
            None.
    """

    task: ClassVar[Task] = "classification"

    k: int
    accuracy: float
    accuracies: np.ndarray
    macro_f1s: np.ndarray
    predictions: Predictions
    evaluation: Evaluation
    suspects: tuple[tuple[str, str, str, float], ...]
    answered: Answered
    seconds: dict[str, float]
    unlabeled: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return f"CrossValidation({self.k} folds, {self.answered.text}, accuracy {self.accuracy:.3f})"

    @property
    def repeats(self) -> int:
        """Number of divisions into folds."""
        return len(self.accuracies)

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the accuracy, by the number of images: repeats bring no new ones."""
        return wilson_interval(round(self.accuracy * len(self.predictions)), len(self.predictions))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "k": self.k,
            "repeats": self.repeats,
            "accuracy": self.accuracy,
            "accuracy_interval": list(self.accuracy_interval),
            "fold_accuracies": self.accuracies.tolist(),
            "fold_accuracy_deviation": float(self.accuracies.std(ddof=1)),
            "fold_macro_f1s": self.macro_f1s.tolist(),
            "evaluation": self.evaluation.to_json(),
            "label_errors_withheld": self.evaluation.at_chance or None,
            **self.answered.to_json(_LABEL_ERRORS, self.suspects),
            "seconds": self.seconds,
            **({} if self.unlabeled is None else {"unlabelled": self.unlabeled}),
        }

    def write(self, folder: Path) -> str:
        """Write `predictions.csv`, `label_errors.csv`, `confusion_matrix.png` and `crossval.json` into a folder.

        Many predictions are `predictions.parquet`. Returns a sentence if they should be and cannot, else "".
        """
        note = write_predictions(self.predictions, folder)
        write_csv(folder / "label_errors.csv", *self.answered.table(_LABEL_ERRORS, self.suspects))
        title, file = f"Held out, {self.k} folds", folder / "confusion_matrix.png"
        plots.confusion.plot_confusion(self.evaluation.confusion, self.predictions.classes, file, title=title)
        write_json(folder / "crossval.json", self.to_json())  # last: where it is, all is
        return note


@with_progress
def cross_validate(
    data: Dataset | Path | str,
    k: int = 5,
    *,
    repeats: int = 1,
    unlabelled: Path | str | None = None,
    config: Config | None = None,
    out: Path | str | None = None,
    cluster: Cluster | str | None = None,
    reporter: ProgressReporter | None = None,
) -> CrossValidation | MultilabelCrossValidation | NumberCrossValidation:
    """Cross-validate the head on frozen features; of several labels per image class by class, and of numbers by errors.

    Args:
        data: A data set, or a path that `scan` takes; its parts are merged.
        k: Number of folds, at least 2; each class needs as many images that can be divided, or two of them where an
            image has any number of classes.
        repeats: Number of divisions into folds, at least 1.
        unlabelled: Images without labels as in `train`, which each fold uses if cross-validation on its own labeled
            images says that they help. Default: those of the configuration.
        config: Configuration, of which the settings of data and model, the class weights and the seed count.
        out: New folder for `crossval.json`, `predictions.csv`, and of most tasks `label_errors.csv` and a chart.
            Default: nothing is written.
        cluster: Address of a Ray cluster that fits the folds at the same time: `ray://HOST:10001`, `auto` or `local`.
        reporter: Reporter that gets the progress; default: that of the notebook or terminal.

    Raises:
        UsageError: `k` or `repeats` is too small, the folder exists, a cluster is given with images without labels, or
            a setting is for classes and the images have numbers.
        DataError: As `scan`, or a class has too few images.
        ClusterError: The cluster cannot be reached or used.

    Examples:
        >>> result = regraft.cross_validate("photos", k=3)
        >>> result.accuracies.shape
        (1, 3)
    """
    config, reporter = config or Config(), reporter or NullReporter()
    if k < 2 or repeats < 1:
        raise UsageError(f"{k} folds, {repeats} repeats; expected at least 2 folds and 1 repeat.")
    if unlabelled is not None:
        config = config.model_copy(update={"data": replace(config.data, unlabelled=str(unlabelled))})
    refuse_teacher(config, "regraft crossval")
    if cluster is not None and config.data.unlabelled:
        raise UsageError("Images without labels (data.unlabelled) work on this machine only. Leave out the cluster.")
    refuse_existing(out)
    clock, cache, seed = [time.perf_counter()], Cache(), config.training.seed
    refuse_settings_of_classes(asked_task(config), config)
    dataset = data if isinstance(data, Dataset) else scan_with(config, data, cache, reporter)
    refuse_settings_of_classes(dataset.model_task, config)
    refuse_settings_of_images(dataset.pool_by, config)
    _refuse_few_images(dataset, k)
    folds = [fold_numbers(dataset, k, seed=f"{seed}/{repeat}" if repeat else seed) for repeat in range(repeats)]
    clock.append(time.perf_counter())
    model, others = build_for(config, dataset), None
    if config.data.unlabelled:
        check_labels(len(dataset))
        every = dataset.with_samples(dataset.table.with_parts(np.full(len(dataset), -1)))  # all are held out in turn
        others = find_unlabeled_for(every, config, reporter)
        chosen = part_to_use(len(dataset), len(others), seed=seed)
        images = others.images.with_samples(others.images.table.take(chosen))
        extra = frozen_features(model, images, cache, reporter, value_range=dataset.value_range)
    features = frozen_features(model, dataset, cache, reporter)
    clock.append(time.perf_counter())
    answered = Answered.of(dataset)
    if (pooled := groups_of(dataset)) is not None:
        features, dataset = mean_rows(features, pooled), per_answer(dataset)
        folds = [fold[pooled.firsts] for fold in folds]
    labels, classes = dataset.targets, len(dataset.classes)
    weights = config.training.class_weights
    if isinstance(weights, dict):  # by index
        given = weights_of_classes(weights, labels, dataset.classes).tolist()
        weights = {str(index): weight for index, weight in enumerate(given)}
    with open_executor(cluster) as executor:
        probabilities = [
            cross_val_predict(
                features, labels, fold, reporter, classes=classes, class_weights=weights, task=dataset.model_task,
                executor=executor,
            )
            for fold in folds
        ]  # fmt: skip
    use_of_unlabeled, plain = None, probabilities
    if others is not None:
        groups = inseparable_set_ids(dataset.samples)
        both = [
            cross_val_predict_with_unlabeled(
                features, extra, labels, fold, of_repeat, reporter, class_weights=weights, groups=groups, seed=seed
            )
            for of_repeat, fold in zip(plain, folds, strict=True)
        ]
        probabilities = [predicted for predicted, _ in both]
        use_of_unlabeled = others.to_json() | {
            "compared": len(extra),
            "folds_used": sum(used for _, used in both),
            "folds": k * repeats,
            **_score_without(labels, plain),
        }
    clock.append(time.perf_counter())
    if (score := _SCORES.get(dataset.task)) is not None:
        result = score(dataset, answered, probabilities, folds, _seconds(clock))
        if isinstance(result, MultilabelCrossValidation):
            result = replace(result, unlabeled=use_of_unlabeled)
        if out is not None:
            result.write(new_output_folder(out))
        return result
    ids = np.array(answered.names, object)

    def predictions(probability: np.ndarray, rows: Any = slice(None)) -> Predictions:
        return Predictions.from_arrays(
            labels[rows], probability[rows], dataset.classes, ids[rows].tolist(), dataset.ordered
        )

    whole = [evaluate(predictions(probability)) for probability in probabilities]
    if dataset.taxonomy is not None:
        whole[0] = replace(whole[0], hierarchy=measure_hierarchy(predictions(probabilities[0]), dataset.taxonomy))
    by_fold = [
        [evaluate(predictions(probability, fold == number)) for number in np.unique(fold)]
        for probability, fold in zip(probabilities, folds, strict=True)
    ]
    found = [] if whole[0].at_chance else find_label_errors(labels, np.mean(probabilities, axis=0))
    suspects = tuple(
        (answered.names[e.index], dataset.samples[e.index].label, dataset.classes[e.suggested], e.probability)
        for e in found
    )
    cross_validation = CrossValidation(
        k,
        float(np.mean([evaluation.accuracy for evaluation in whole])),
        np.array([[evaluation.accuracy for evaluation in row] for row in by_fold]),
        np.array([[evaluation.macro_f1 for evaluation in row] for row in by_fold]),
        predictions(probabilities[0]),
        whole[0],
        suspects,
        answered,
        _seconds(clock),
        use_of_unlabeled,
    )
    if out is not None and (note := cross_validation.write(new_output_folder(out))):
        reporter.on_message(note)
    return cross_validation


def _score_without(labels: np.ndarray, probabilities: Sequence[np.ndarray]) -> dict[str, float]:
    """The mean score over the repeats by heads without unlabeled images: accuracy, or mAP of several labels."""
    if labels.ndim == 2:
        scores = [mean_average_precision(labels > 0.5, of_repeat) for of_repeat in probabilities]
        return {"mean_average_precision_without": float(np.mean(scores))}
    return {"accuracy_without": float(np.mean([(p.argmax(axis=1) == labels).mean() for p in probabilities]))}


def _seconds(clock: list[float]) -> dict[str, float]:
    """The durations of the steps that end at these moments, after the first."""
    seconds = dict(zip(("scan", "features", "heads"), np.diff(clock).tolist(), strict=True))
    return seconds | {"total": time.perf_counter() - clock[0]}


def _refuse_few_images(dataset: Dataset, k: int) -> None:
    """Raise `DataError` for classes of which some fold's head would see no image, or whose folds would have none."""
    if dataset.task == "regression":  # which has no classes; that there are enough images is seen by the folds
        return
    counts, least = inseparable_set_counts(dataset.samples), k
    if dataset.task == "multilabel":  # a fold without a class says less about it
        sets, has = inseparable_set_ids(dataset.samples), dataset.indicators
        counts, least = Counter({n: len(np.unique(sets[has[:, i]])) for i, n in enumerate(dataset.classes)}), 2
    if few := [name for name, count in sorted(counts.items()) if count < least]:
        raise DataError(
            f"{pluralize(len(few), 'class has', 'classes have')} fewer than {least} images that can be divided: "
            f"{join_truncated(few)}. Use fewer folds (-k), add images, or remove the class."
        )


def refuse_existing(out: Path | str | None) -> None:
    """Raise `UsageError` if an output folder exists."""
    if out is not None and Path(out).exists():
        raise UsageError(f"{out} exists already, and nothing is overwritten. Choose another --out.")


def new_output_folder(out: Path | str) -> Path:
    """Create an output folder; raise `RunError` if another process has created it meanwhile."""
    try:
        Path(out).mkdir(parents=True)
    except FileExistsError as error:
        raise RunError(f"{out} was created by another process meanwhile. Choose another --out.") from error
    return Path(out)
