"""Cross-validate the head: every image is judged by a head that was solved without it and without its like.

Enters: labelled images. Leaves: a `CrossValidation`, and a folder with the out-of-fold predictions of every image. The
frozen prefix runs once, whatever the number of folds; fine-tuning has no part in it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from regraft.config import Config
from regraft.data.dataset import Dataset
from regraft.data.scan import scan
from regraft.data.split import bundle_counts, fold_numbers
from regraft.errors import DataError, RunError, UsageError, counted, listed
from regraft.evaluation.intervals import wilson_interval
from regraft.evaluation.label_errors import find_label_errors
from regraft.evaluation.metrics import Evaluation, evaluate
from regraft.evaluation.predictions import Predictions
from regraft.files import write_csv, write_json
from regraft.models.classifier import build
from regraft.pipeline.listening import told
from regraft.report.confusion import plot_confusion
from regraft.shown import Shown
from regraft.store import Store
from regraft.training.out_of_fold import frozen_features, out_of_fold
from regraft.training.progress import Listener, Silence

_RESULT, _PREDICTIONS, _SUSPECTS = "crossval.json", "predictions.csv", "label_errors.csv"


@dataclass(frozen=True, eq=False)
class CrossValidation(Shown, by="regraft.pipeline.notebook.cross_validation"):
    """What came of it.

    Attributes:
        k: Folds.
        accuracy: Share of all images that are right, mean over the repeats, 0..1.
        accuracies: Of the held-out images of each fold, float64 (repeats, k), 0..1.
        macro_f1s: Likewise.
        predictions: Of every image by the head that did not see it, of the first repeat.
        evaluation: Of these predictions.
        suspects: Path, label, class that it looks like, and that class's probability, of the likely wrong labels, the
            likeliest first; by the mean of the repeats' probabilities.
        seconds: Wall-clock time: `scan`, `features`, `heads`, `total`.
    """

    k: int
    accuracy: float
    accuracies: np.ndarray
    macro_f1s: np.ndarray
    predictions: Predictions
    evaluation: Evaluation
    suspects: tuple[tuple[str, str, str, float], ...]
    seconds: dict[str, float]

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """95 % Wilson interval of it: every image was judged once a repeat, and repeats bring no new images."""
        return wilson_interval(round(self.accuracy * len(self.predictions)), len(self.predictions))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "k": self.k,
            "repeats": len(self.accuracies),
            "accuracy": self.accuracy,
            "accuracy_interval": list(self.accuracy_interval),
            "fold_accuracies": self.accuracies.tolist(),
            "fold_accuracy_deviation": float(self.accuracies.std(ddof=1)),
            "fold_macro_f1s": self.macro_f1s.tolist(),
            "evaluation": self.evaluation.to_json(),
            "label_errors": [
                dict(zip(("path", "label", "looks_like", "probability"), suspect, strict=True))
                for suspect in self.suspects
            ],
            "seconds": self.seconds,
        }


@told
def cross_validate(
    data: Dataset | Path | str,
    k: int = 5,
    *,
    repeats: int = 1,
    config: Config | None = None,
    out: Path | str | None = None,
    listener: Listener | None = None,
) -> CrossValidation:
    """Cross-validate the head on frozen features; parts that the data has are put together.

    Args:
        data: A data set, or a path that `scan` takes.
        k: Folds, at least 2; each class needs as many images that may be divided.
        repeats: Other divisions into folds, at least 1.
        config: Of it, the settings of the data, of the model, the class weights and the seed count.
        out: A folder for `crossval.json`, `predictions.csv`, `label_errors.csv` and the confusion matrix; it must not
            be there yet. Default: nothing is written.
        listener: Told how far the work is; default: a notebook or terminal that this is called from.

    Raises:
        UsageError: `k` or `repeats` is too small, or the folder is there.
        DataError: As `scan`, or a class has too few images.
    """
    config, listener = config or Config(), listener or Silence()
    if k < 2 or repeats < 1:
        raise UsageError(f"{k} folds, {repeats} repeats; expected at least 2 folds and 1 repeat.")
    if out is not None and Path(out).exists():
        raise UsageError(f"{out} exists already, and nothing is overwritten. Choose another --out.")
    started, seconds = time.perf_counter(), dict[str, float]()

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        seconds[name] = time.perf_counter() - begun

    store = Store()
    with timed("scan"):
        dataset = data if isinstance(data, Dataset) else scanned(data, config, store, listener)
        few = [name for name, count in sorted(bundle_counts(dataset.samples).items()) if count < k]
        if few:
            raise DataError(
                f"{counted(len(few), 'class has', 'classes have')} fewer than {k} images that may be divided: "
                f"{listed(few)}. Take fewer folds (-k), add images, or leave the class out."
            )
        seed = config.training.seed
        folds = [fold_numbers(dataset, k, seed=f"{seed}/{repeat}" if repeat else seed) for repeat in range(repeats)]
    options = asdict(config.model)
    model = build(
        options.pop("backbone"),
        classes=dataset.classes,
        shorter_side=dataset.shorter_side,
        seed=config.training.seed,
        **options,
    )
    with timed("features"):
        features = frozen_features(model, dataset, store, listener)
    labels, classes = dataset.labels, len(dataset.classes)
    with timed("heads"):
        balanced = config.training.class_weights == "balanced"
        found = [out_of_fold(features, labels, fold, listener, classes=classes, balanced=balanced) for fold in folds]
    told = [_predictions(dataset, probabilities) for probabilities in found]
    parts = [[_rows(predictions, fold == number) for number in np.unique(fold)]
             for predictions, fold in zip(told, folds, strict=True)]  # fmt: skip
    scores = [[evaluate(part) for part in row] for row in parts]
    mean = np.mean(found, axis=0)
    suspects = tuple(
        (dataset.samples[e.index].path, dataset.samples[e.index].label, dataset.classes[e.suggested], e.probability)
        for e in find_label_errors(labels, mean)
    )
    seconds["total"] = time.perf_counter() - started
    result = CrossValidation(
        k,
        float(np.mean([evaluate(predictions).accuracy for predictions in told])),
        np.array([[score.accuracy for score in row] for row in scores]),
        np.array([[score.macro_f1 for score in row] for row in scores]),
        told[0],
        evaluate(told[0]),
        suspects,
        seconds,
    )
    if out is not None:
        _write(result, Path(out))
    return result


def scanned(data: Path | str, config: Config, store: Store, listener: Listener) -> Dataset:
    """What `scan` finds, by the settings; its notes go to the listener."""
    dataset = scan(
        data,
        on_bad=config.data.on_bad,
        group_by=config.data.group_by,
        remote=config.data.remote,
        store=store,
        progress=lambda done, total: listener.work("scan", done, total, "images"),
        compare=lambda done, total: listener.work("near duplicates", done, total, "pairs"),
    )
    for note in dataset.notes:
        listener.note(note)
    return dataset


def _predictions(dataset: Dataset, probabilities: np.ndarray) -> Predictions:
    return Predictions.from_arrays(dataset.labels, probabilities, dataset.classes, [s.path for s in dataset.samples])


def _rows(predictions: Predictions, chosen: np.ndarray) -> Predictions:
    ids = [predictions.ids[i] for i in np.flatnonzero(chosen)]
    return Predictions.from_arrays(
        predictions.labels[chosen], predictions.probabilities[chosen], predictions.classes, ids
    )


def _write(result: CrossValidation, out: Path) -> None:
    try:
        out.mkdir(parents=True)
    except FileExistsError as error:
        raise RunError(f"{out} was made meanwhile by another process. Choose another --out.") from error
    result.predictions.write_csv(out / _PREDICTIONS)
    write_csv(out / _SUSPECTS, ("path", "label", "looks_like", "probability"), result.suspects)
    plot_confusion(
        result.evaluation.confusion,
        result.predictions.classes,
        out / "confusion_matrix.png",
        title=f"Held out, {result.k} folds",
    )
    write_json(out / _RESULT, result.to_json())  # last: where it is, all is
