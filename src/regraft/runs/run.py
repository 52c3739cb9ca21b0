"""A run: the folder of one training, whose files are read when they are first used.

Those of the version before are upgraded in memory; the folder stays as it is.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from regraft.data.dataset import Part
from regraft.data.labels import Task
from regraft.data.pooling import Counted
from regraft.data.taxonomy import Taxonomy
from regraft.errors import RunError, UsageError, as_path, suggest_names
from regraft.evaluation.abstention import Selection, conformal_threshold, threshold_for
from regraft.evaluation.hierarchy import check_tree, hierarchy_of_part, threshold_under_tree
from regraft.evaluation.metrics import Evaluation
from regraft.evaluation.metrics import evaluate as evaluate_predictions
from regraft.evaluation.multilabel.metrics import MultilabelEvaluation, evaluate_labels
from regraft.evaluation.multilabel.predictions import MultilabelPredictions
from regraft.evaluation.multilabel.thresholds import thresholds_for_precision
from regraft.evaluation.predictions import Predictions
from regraft.evaluation.regression.conformal import conformal_half_width, least_images
from regraft.evaluation.regression.metrics import RegressionEvaluation, evaluate_numbers
from regraft.evaluation.regression.predictions import RegressionPredictions
from regraft.evaluation.stored_predictions import CSV, find_predictions, read_predictions
from regraft.evaluation.tasks import AnyEvaluation, AnyPredictions
from regraft.evaluation.training_overlap import TrainingOverlap
from regraft.models.classifier import Classifier
from regraft.models.image_sources import iter_sources
from regraft.models.inference import Prediction, Tta, predict_images
from regraft.models.pooled_predictions import pool_predictions
from regraft.models.serialization import load_classifier, read_model_json
from regraft.models.summary import Summary, summary_of
from regraft.notebook_repr import NotebookRepr, ResultList
from regraft.runs.run_folder import CHECKPOINT as CHECKPOINT
from regraft.runs.run_folder import CONFIG as CONFIG
from regraft.runs.run_folder import HEAD_PATH as HEAD_PATH
from regraft.runs.run_folder import HISTORY as HISTORY
from regraft.runs.run_folder import METRICS as METRICS
from regraft.runs.run_folder import SOURCE as SOURCE
from regraft.runs.run_folder import SPLIT as SPLIT
from regraft.runs.run_folder import UNLABELED as UNLABELED


class Run(NotebookRepr):
    """A trained model with everything that its training wrote."""

    def __init__(self, path: Path | str, classifier: Classifier | None = None) -> None:
        """Open a run's folder.

        Raises:
            UsageError: There is no such folder.
            RunError: It contains no model.
        """
        self.path = as_path(path, "The folder of a run")
        if not self.path.exists():
            raise UsageError(
                f"{self.path} does not exist. Expected the folder of a run, such as `regraft train DATA --out "
                f"{self.path}` creates."
            )
        self.description = read_model_json(self.path)
        if classifier is not None:
            self.classifier = classifier

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @cached_property
    def classifier(self) -> Classifier:
        """Model on the CPU."""
        return load_classifier(self.path)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in output order."""
        return tuple(self.description["classes"])

    @property
    def task(self) -> Task:
        """Whether the model gives an image one class (`classification`), any number, or a number (`regression`)."""
        task: Task = self.description["head"].get("task", "classification")
        return task

    @property
    def ordered(self) -> bool:
        """Whether the classes have an order, lowest first in `classes` (the task `ordinal`)."""
        return bool(self.description["head"].get("ordered"))

    @property
    def counted(self) -> Counted:
        """What has an answer, of which the metrics are: an `image`, or a `group` of images."""
        return "group" if self.description.get("pool_by") else "image"

    @cached_property
    def taxonomy(self) -> Taxonomy | None:
        """The tree above the classes; None without one."""
        return Taxonomy.from_json(self.description.get("taxonomy"), self.classes)

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Content of `metrics.json`."""
        try:
            value: dict[str, Any] = json.loads(self._text(METRICS))
        except (ValueError, RecursionError) as error:
            raise RunError(f"{self.path / METRICS} is damaged: {error}") from error
        return upgrade_metrics(value)

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """One row per epoch; numbers as numbers, empty cells as None."""
        return upgrade_history(self._rows(HISTORY))[0]

    @cached_property
    def head_path(self) -> list[dict[str, Any]]:
        """One row per L2 strength at which the linear head was fitted; empty for a head that was trained in epochs."""
        if (self.path / HEAD_PATH).is_file():
            return self._rows(HEAD_PATH)
        return upgrade_history(self._rows(HISTORY))[1]

    @cached_property
    def predictions(self) -> Predictions:
        """Predictions of the validation and test images at the end of the training, each of which has one class.

        Raises:
            UsageError: The images have any number of classes, or a number; see `stored`.
        """
        if self.task != "classification":
            what = "several labels" if self.task == "multilabel" else "a number"
            raise UsageError(f"{self.path} gives images {what}. Expected one class for each image.")
        if file := find_predictions(self.path):
            return replace(read_predictions(file), ordered=self.ordered, counted=self.counted)
        if (self.path / METRICS).is_file():
            raise RunError(
                f"{self.path} has no validation or test images, so its model was not evaluated and no predictions "
                "are stored. Give labeled images, or train with data.val and data.test above 0."
            )
        raise RunError(f"{self.path} has no {CSV}: the training was stopped before the evaluation.")

    @cached_property
    def label_predictions(self) -> MultilabelPredictions:
        """Predictions of the validation and test images where an image has any number of classes."""
        self._text(CSV)
        stored = MultilabelPredictions.read_csv(self.path / CSV, np.array(self.description["head"]["thresholds"]))
        return replace(stored, counted=self.counted)

    @cached_property
    def number_predictions(self) -> RegressionPredictions:
        """Predictions of the validation and test images where an image has a number."""
        self._text(CSV)
        half_width = self.description["head"]["half_width"]
        stored = RegressionPredictions.read_csv(self.path / CSV, half_width, self.classes[0])
        return replace(stored, counted=self.counted)

    def predict(
        self,
        sources: Any,
        *,
        batch_size: int = 32,
        tta: Tta = "none",
        groups: Sequence[str | None] | str | None = None,
    ) -> list[Prediction]:
        """Predict one image or many, or groups of images; see `regraft.predict`."""
        predictions = self.stream(sources, batch_size=batch_size, tta=tta)
        if groups is None:
            return ResultList(predictions)
        return ResultList(pool_predictions(list(predictions), groups, self.classifier))

    def stream(self, sources: Any, *, batch_size: int = 32, tta: Tta = "none") -> Iterator[Prediction]:
        """Yield the predictions of any number of images."""
        images = iter_sources(sources, bands=self.classifier.preprocessing.bands)
        return predict_images(self.classifier, images, batch_size=batch_size, tta=tta)

    def summary(self) -> Summary:
        """List the layers; see `regraft.summary`."""
        return summary_of(self.classifier)

    def evaluation(self, part: Part | None = None) -> AnyEvaluation:
        """Evaluate the stored predictions of one part, whatever the task; see `stored`."""
        if self.task == "regression":
            return self.evaluate_numbers(part)
        return self.evaluate_labels(part) if self.task == "multilabel" else self.evaluate(part)

    def stored(self, part: Part | None = None) -> AnyPredictions:
        """Select the stored predictions of one part, whatever the task; as `predictions_of`."""
        every = self.every_prediction
        return every.part(self._stored_part(every.parts, part))

    @property
    def every_prediction(self) -> AnyPredictions:
        """Predictions of the validation and test images, whatever the task."""
        if self.task == "regression":
            return self.number_predictions
        return self.label_predictions if self.task == "multilabel" else self.predictions

    def evaluate_numbers(self, part: Part | None = None) -> RegressionEvaluation:
        """Evaluate the stored predictions of one part where an image has a number."""
        predictions = self.number_predictions.part(self._stored_part(self.number_predictions.parts, part))
        return replace(evaluate_numbers(predictions), overlap=self._stored_overlap(predictions.parts[0]))

    def evaluate_labels(self, part: Part | None = None) -> MultilabelEvaluation:
        """Evaluate the stored predictions of one part where an image has any number of classes."""
        predictions = self.label_predictions_of(part)
        return replace(evaluate_labels(predictions), overlap=self._stored_overlap(predictions.parts[0]))

    def label_predictions_of(self, part: Part | None = None) -> MultilabelPredictions:
        """Select the stored predictions of one part as `predictions_of`, where an image has any number of classes."""
        return self.label_predictions.part(self._stored_part(self.label_predictions.parts, part))

    def evaluate(self, part: Part | None = None, *, min_confidence: float | None = None) -> Evaluation:
        """Evaluate the stored predictions of one part; see `predictions_of`, and `regraft.evaluate`."""
        if min_confidence is not None:
            check_tree(self.taxonomy, self.path)
        predictions = self.predictions_of(part)
        part_name = predictions.parts[0]
        hierarchy = hierarchy_of_part(self.predictions, part_name, self.taxonomy, min_confidence)
        overlap = self._stored_overlap(part_name)
        return replace(evaluate_predictions(predictions), overlap=overlap, hierarchy=hierarchy)

    def _stored_overlap(self, part: str) -> TrainingOverlap | None:
        stored = self.metrics.get(part, {}) if (self.path / METRICS).is_file() else {}
        return TrainingOverlap.from_json(stored["overlap"]) if stored.get("overlap") else None

    def predictions_of(self, part: Part | None = None) -> Predictions:
        """Select the stored predictions of one part. Default: test, or val if there is no test part.

        Raises:
            UsageError: The run has no predictions of this part.
        """
        return self.predictions.part(self._stored_part(self.predictions.parts, part))

    def _stored_part(self, stored: Sequence[str], part: Part | None) -> Part:
        parts = set(stored)
        part = part or ("test" if "test" in parts else "val")
        if part not in parts:
            raise UsageError(
                f"{self.path} has predictions of {', '.join(sorted(parts)) or 'no images'}; to evaluate {part}, give "
                "the data."
            )
        return part

    def confidence_threshold(self, accuracy: float) -> Selection:
        """Find the lowest confidence from which on predictions have this accuracy on the validation images.

        With a tree, these are the answers at that confidence (`Prediction.answer_at`), which may be nodes above the
        classes.

        Raises:
            UsageError: The run has no validation images, or no confidence has this accuracy.
        """
        if self.taxonomy is not None:
            return threshold_under_tree(self._validation(), self.taxonomy, accuracy)
        return threshold_for(self._validation(), accuracy)

    def conformal_threshold(self, coverage: float) -> float:
        """Find the lowest probability of a class in conformal sets that contain the true class with this probability.

        Raises:
            UsageError: The run has no validation images, or the coverage is not between 0 and 1.
        """
        return conformal_threshold(self._validation(), coverage)

    def precision_thresholds(self, precision: float) -> tuple[float, ...]:
        """Find the lowest threshold of each class from which on labels have this precision on the validation images.

        A class that cannot have it gets a threshold above 1.

        Raises:
            UsageError: The run has no validation images, or gives an image one class.
        """
        if self.task != "multilabel":
            raise UsageError(f"{self.path} gives an image one class. Expected a run with several labels an image.")
        val = self.label_predictions.part("val")
        if not len(val):
            raise UsageError(f"{self.path} has no validation images to choose thresholds on.")
        return tuple(thresholds_for_precision(val.indicators, val.probabilities, precision).tolist())

    def conformal_half_width(self, coverage: float) -> float:
        """Find half the width of intervals that contain the true number with this probability.

        Raises:
            UsageError: The run gives images no number, it has too few validation images, or the coverage is not between
                0 and 1.
        """
        if self.task != "regression":
            raise UsageError(f"{self.path} gives images classes. Expected a run that gives them a number.")
        val = self.number_predictions.part("val")
        width = conformal_half_width(val.residuals, coverage)
        if width is None:
            raise UsageError(
                f"A coverage of {100 * coverage:g} % needs at least {least_images(coverage)} validation images, and "
                f"{self.path} has {len(val)}. Ask for less, or train with more."
            )
        return width

    def ood_threshold(self, rate: float) -> float:
        """Check that images can be flagged as out-of-distribution at this rate of false alarms, and return it.

        Raises:
            UsageError: The run has no out-of-distribution statistics, or too few validation images for this rate.
        """
        if not 0 < rate < 1:
            raise UsageError(f"Out-of-distribution rate {rate:g}: expected a number between 0 and 1.")
        ood = self.description.get("ood")
        if not ood:
            raise UsageError(
                f"{self.path} has no out-of-distribution statistics. They need validation images, a class with two "
                "training images and a training that was not interrupted. Train again."
            )
        if rate < (lowest := 1 / (ood["calibration_images"] + 1)):
            raise UsageError(
                f"Out-of-distribution rate {rate:g}: with {ood['calibration_images']} validation images, expected at "
                f"least {lowest:.2g}."
            )
        return rate

    def _validation(self) -> Predictions:
        val = self.predictions.part("val")
        if not len(val):
            raise UsageError(
                f"{self.path} has no validation images to choose a threshold on. Train with a validation part."
            )
        return val

    def _text(self, name: str) -> str:
        file = self.path / name
        if not file.is_file():
            raise RunError(f"{self.path} has no {name}: the training was stopped before the evaluation.")
        try:
            return file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise RunError(f"{file} is damaged: {error}") from error

    def _rows(self, name: str) -> list[dict[str, Any]]:
        """The rows of a table; numbers as numbers, empty cells as None."""
        rows = list(csv.DictReader(self._text(name).splitlines()))
        if any(None in row or None in row.values() for row in rows):
            raise RunError(f"{self.path / name} is damaged: a row has more or fewer cells than the first line.")
        return [{column: _number(cell) for column, cell in row.items()} for row in rows]


@suggest_names
def load(path: Path | str) -> Run:
    """Open the folder of a run.

    Raises:
        UsageError: There is no such folder.
        RunError: It contains no model.

    Examples:
        >>> run = regraft.load("runs/photos")
        >>> run.classes
        ('daisy', 'rose', 'tulip')
    """
    return Run(path)


def open_model(model: Any) -> Any:
    """Return a run, a model or an export as it is, and the run in a folder; `UsageError` for anything else."""
    if isinstance(model, (str, os.PathLike)):
        path = as_path(model, "The model")
        if (path / "export.json").is_file():
            raise UsageError(f"{path} is an export. Pass regraft.ExportedModel({str(path)!r}) instead of its folder.")
        return Run(path)
    is_model = hasattr(model, "preprocessing") and hasattr(model, "classes")
    if isinstance(model, type) or not (isinstance(model, Run) or is_model):
        raise UsageError(
            f"The model is a {type(model).__name__}; expected a run or its folder, a model (regraft.build) or an "
            "export (regraft.ExportedModel)."
        )
    return model


def classifier_of(model: Any) -> Any:
    """Return the model of a run or of its folder, or the model or export itself; raise as `open_model`."""
    model = open_model(model)
    return model.classifier if isinstance(model, Run) else model


def upgrade_metrics(metrics: dict[str, Any]) -> dict[str, Any]:
    """Rename the keys of a `metrics.json` that the version before wrote, in place."""
    training = metrics.get("training", {})
    if "engine" in training:
        training["prefix_backend"] = training.pop("engine")
    return metrics


def upgrade_history(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Separate the epochs of a `history.csv` from the path of the head, which the version before wrote into it.

    Its rows of the path have an L2 strength in the column `strength`, which the epochs leave empty. Returns rows as of
    `history.csv`, and rows as of `head_path.csv`.
    """
    columns = ("train_loss", "val_loss", "val_accuracy", "seconds")
    epochs, fits = [], []
    for row in rows:
        l2 = row.pop("strength", None)
        if l2 is None:
            epochs.append(row)
        else:
            fits.append({"l2": l2} | {name: row[name] for name in columns})
    best = min((fit["val_loss"] for fit in fits if fit["val_loss"] is not None), default=None)
    return epochs, [fit | {"chosen": fit["val_loss"] == best if best is not None else fit is fits[-1]} for fit in fits]


def _number(cell: str) -> Any:
    if cell in ("True", "False"):
        return cell == "True"
    if cell == "":
        return None
    try:
        return int(cell) if cell.lstrip("-").isdigit() else float(cell)
    except ValueError:
        return cell
