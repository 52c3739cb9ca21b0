"""Measure and draw the predictions of a model that gives an image a number, and fit its prediction intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from regraft.data.dataset import Split
from regraft.data.preprocessing import Preprocessing
from regraft.data.samples import Part
from regraft.evaluation.regression.conformal import COVERAGE, conformal_half_width, least_images
from regraft.evaluation.regression.metrics import evaluate_numbers
from regraft.evaluation.regression.predictions import RegressionPredictions
from regraft.evaluation.stored_predictions import CSV
from regraft.models.classifier import Classifier
from regraft.report import plots
from regraft.runs.sample_predictions import SamplePredictions
from regraft.runs.tasks.base import PART_TITLES, with_images
from regraft.runs.training_overlap import overlap_within
from regraft.training.options import TrainingOptions


def _describe(numbers: np.ndarray) -> dict[str, float]:
    """How the numbers of a part, float64 (n,), n >= 1, are spread."""
    return {
        "least": float(numbers.min()), "largest": float(numbers.max()), "mean": float(numbers.mean()),
        "deviation": float(numbers.std()),
    }  # fmt: skip


@dataclass(frozen=True)
class RegressionResults:
    """Predictions with the interval that the head now has."""

    predictions: RegressionPredictions

    @classmethod
    def calibrated(cls, model: Classifier, predicted: SamplePredictions, options: TrainingOptions) -> RegressionResults:
        """Fit the prediction interval to the val images."""
        before = predicted.number_predictions
        model.head.half_width = conformal_half_width(before.part("val").residuals)
        return cls(replace(before, half_width=model.head.half_width))

    def write(self, folder: Path) -> str:
        """Write `predictions.csv`; says so if there are too few val images for an interval."""
        self.predictions.write_csv(folder / CSV)
        if self.predictions.half_width is not None:
            return ""
        return (
            f"There are no prediction intervals: for {100 * COVERAGE:g} % coverage they need at least "
            f"{least_images()} validation images, and there are {len(self.predictions.part('val'))}."
        )

    def measure(self, split: Split, parts: Sequence[Part]) -> dict[str, Any]:
        """Metrics of each part, the prediction interval, and how the numbers of each part are spread."""
        metrics: dict[str, Any] = {}
        for part in parts:
            predictions = self.predictions.part(part)
            overlap = overlap_within(split, predictions)
            metrics[part] = replace(evaluate_numbers(predictions), overlap=overlap).to_json()
        for part in split:
            metrics.setdefault("numbers", {})[part] = _describe(split[part].numbers)
        interval = {"half_width": self.predictions.half_width, "coverage": COVERAGE}
        return metrics | {"calibration": {"fitted_on": "val" if "val" in parts else None, **interval}}

    def plot(
        self, folder: Path, split: Split, part: Part, metrics: Mapping[str, Any], preprocessing: Preprocessing
    ) -> None:
        """Draw predicted over true numbers, and the images with the largest and smallest errors."""
        title, predictions = f"{PART_TITLES[part]} images", self.predictions.part(part)
        file, quantity = folder / "predicted_true.png", predictions.quantity
        plots.predicted_true.plot_predicted_true(predictions, file, title=title, quantity=quantity)
        predictions = predictions.take(np.arange(len(split.with_files(part))))
        if not len(predictions):
            return

        def tile(image: np.ndarray, row: int) -> plots.samples.NumberTile:
            value, width = float(predictions.values[row]), predictions.half_width
            return plots.samples.NumberTile(image, float(predictions.targets[row]), value, width)

        # The predictions of a part are in its order.
        tiles = with_images(plots.samples.choose_number_samples(predictions), split, part, preprocessing, tile)
        title = f"{title}: true \N{RIGHTWARDS ARROW} predicted"
        plots.samples.plot_samples(tiles, folder / "sample_predictions.png", title=title)
