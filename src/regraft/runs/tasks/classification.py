"""Calibrate, measure and draw the predictions of a model that gives an image one class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from regraft.data.dataset import Split
from regraft.data.preprocessing import Preprocessing
from regraft.data.samples import Part
from regraft.data.taxonomy import Taxonomy
from regraft.evaluation.calibration import apply_temperature, fit_temperature, measure_calibration, read_calibration
from regraft.evaluation.hierarchy import Hierarchy, hierarchy_of_part
from regraft.evaluation.metrics import Evaluation, evaluate
from regraft.evaluation.predictions import Predictions
from regraft.evaluation.stored_predictions import write_predictions
from regraft.models.classifier import Classifier
from regraft.report import plots
from regraft.runs.sample_predictions import SamplePredictions
from regraft.runs.tasks.base import PART_TITLES, with_images
from regraft.runs.training_overlap import overlap_within
from regraft.training.options import TrainingOptions


def plot_levels(hierarchy: Hierarchy, folder: Path, part: Part) -> None:
    """Draw the confusion matrix of each level of a tree above the classes."""
    for level in hierarchy.levels:
        file = folder / f"confusion_matrix_level_{level.level}.png"
        title = f"{PART_TITLES[part]} images, level {level.level}"
        plots.confusion.plot_confusion(level.confusion, level.nodes, file, title=title)


@dataclass(frozen=True)
class ClassificationResults:
    """Predictions at temperature 1 and at the fitted one, which the head now has."""

    before: Predictions
    predictions: Predictions
    temperature: float
    tree: Taxonomy | None = None

    @classmethod
    def calibrated(
        cls, model: Classifier, predicted: SamplePredictions, options: TrainingOptions
    ) -> ClassificationResults:
        """Fit the temperature to the val images."""
        before = predicted.predictions
        model.head.temperature = fit_temperature(before.part("val"))
        probabilities = apply_temperature(before.probabilities, model.head.temperature)
        return cls(before, replace(before, probabilities=probabilities), model.head.temperature, model.taxonomy)

    def write(self, folder: Path) -> str:
        """Write `predictions.csv`, or Parquet if they are many."""
        return write_predictions(self.predictions, folder)

    def measure(self, split: Split, parts: Sequence[Part]) -> dict[str, Any]:
        """Metrics of each part, and its calibration before and after temperature scaling."""
        metrics: dict[str, Any] = {}
        calibration: dict[str, Any] = {
            "temperature": self.temperature,
            "fitted_on": "val" if "val" in parts else None,
        }
        for part in parts:
            predictions = self.predictions.part(part)
            overlap = overlap_within(split, predictions)
            hierarchy = hierarchy_of_part(self.predictions, part, self.tree)
            metrics[part] = replace(evaluate(predictions), overlap=overlap, hierarchy=hierarchy).to_json()
            before, after = (measure_calibration(p.part(part)) for p in (self.before, self.predictions))
            calibration[part] = {"before": before.to_json(), "after": after.to_json()}
        return metrics | {"calibration": calibration}

    def plot(
        self, folder: Path, split: Split, part: Part, metrics: Mapping[str, Any], preprocessing: Preprocessing
    ) -> None:
        """Draw reliability diagrams, the confusion matrix, and right and wrong predictions."""
        before, after = (read_calibration(metrics["calibration"][part][when]) for when in ("before", "after"))
        plots.reliability.plot_reliability(before, after, self.temperature, folder / "reliability.png", part=part)
        title, predictions = f"{PART_TITLES[part]} images", self.predictions.part(part)
        evaluation = Evaluation.from_json(metrics[part])
        if evaluation.hierarchy is not None:
            plot_levels(evaluation.hierarchy, folder, part)
        file = folder / "confusion_matrix.png"
        plots.confusion.plot_confusion(evaluation.confusion, predictions.classes, file, title=title)
        predictions = predictions.take(np.arange(len(split.with_files(part))))
        if not len(predictions):
            return

        def tile(image: np.ndarray, row: int) -> plots.samples.SampleTile:
            label, predicted = (predictions.classes[of[row]] for of in (predictions.labels, predictions.predicted))
            return plots.samples.SampleTile(image, label, predicted, float(predictions.confidence[row]))

        # The predictions of a part are in its order.
        tiles = with_images(plots.samples.choose_samples(predictions), split, part, preprocessing, tile)
        title = f"{title}: true \N{RIGHTWARDS ARROW} predicted"
        plots.samples.plot_samples(tiles, folder / "sample_predictions.png", title=title)
