"""Calibrate, measure and draw the predictions of a model that gives an image any number of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from regraft.data.dataset import Split
from regraft.data.preprocessing import Preprocessing
from regraft.data.samples import Part
from regraft.evaluation.multilabel.calibration import fit_slopes_and_offsets, measure_label_calibration
from regraft.evaluation.multilabel.metrics import evaluate_labels
from regraft.evaluation.multilabel.predictions import MultilabelPredictions
from regraft.evaluation.multilabel.thresholds import choose_thresholds
from regraft.evaluation.stored_predictions import CSV
from regraft.evaluation.training_overlap import TrainingOverlap
from regraft.models.classifier import Classifier
from regraft.models.head import Head
from regraft.report import plots
from regraft.runs.sample_predictions import SamplePredictions
from regraft.runs.tasks.base import PART_TITLES, with_images
from regraft.runs.training_overlap import overlap_within
from regraft.training.options import TrainingOptions


@dataclass(frozen=True)
class MultilabelResults:
    """Predictions before and after calibration, with the slope and the offset of each class's logit, float64 (C,).

    `thresholds_for` is what the thresholds were chosen for, as in the setting.
    """

    before: MultilabelPredictions
    predictions: MultilabelPredictions
    slopes: np.ndarray
    offsets: np.ndarray
    thresholds_for: str

    @classmethod
    def calibrated(cls, model: Classifier, predicted: SamplePredictions, options: TrainingOptions) -> MultilabelResults:
        """Fit each class's calibration and threshold to the val images, and change the head's last layer for them.

        What is `predicted` are logits, which `Head.answers_logits` asks for.
        """
        logits = predicted.probabilities
        before = replace(predicted, probabilities=_sigmoid(logits)).label_predictions
        is_val = np.array([part == "val" for part in before.parts], bool)
        slopes, offsets = fit_slopes_and_offsets(before.indicators[is_val], logits[is_val])
        calibrated = _sigmoid(slopes * logits + offsets)
        thresholds = choose_thresholds(before.indicators[is_val], calibrated[is_val], options.thresholds)
        model.head.rescale(slopes.tolist(), offsets.tolist())
        model.head.thresholds = tuple(thresholds.tolist())
        after = replace(before, probabilities=calibrated, thresholds=thresholds)
        return cls(before, after, slopes, offsets, options.thresholds)

    @classmethod
    def stored(cls, predictions: MultilabelPredictions, calibration: Mapping[str, Any]) -> MultilabelResults:
        """Those of a run, of some or all of its classes, from what it has stored.

        `calibration` is that of `metrics.json`, with the slopes and offsets of these classes.
        """
        slopes, offsets = (np.array(calibration[name], np.float64) for name in ("slopes", "offsets"))
        logits = np.log(np.clip(predictions.probabilities, 1e-300, None))
        logits -= np.log(np.clip(1 - predictions.probabilities, 1e-17, None))
        before = replace(predictions, probabilities=_sigmoid((logits - offsets) / slopes))
        return cls(before, predictions, slopes, offsets, calibration["thresholds_for"])

    def write(self, folder: Path) -> str:
        """Write `predictions.csv`."""
        self.predictions.write_csv(folder / CSV)
        return ""

    def measure(self, split: Split, parts: Sequence[Part]) -> dict[str, Any]:
        """Metrics of each part, and the calibration of its classes before and after."""
        return self.measure_with({part: overlap_within(split, self.predictions.part(part)) for part in parts})

    def measure_with(self, overlaps: Mapping[Part, TrainingOverlap | None]) -> dict[str, Any]:
        """The same, for parts whose overlap with the training images is known."""
        metrics: dict[str, Any] = {}
        calibration: dict[str, Any] = {
            "fitted_on": "val" if "val" in overlaps else None,
            "slopes": self.slopes.tolist(),
            "offsets": self.offsets.tolist(),
            "thresholds_for": self.thresholds_for,
        }
        for part, overlap in overlaps.items():
            predictions = self.predictions.part(part)
            metrics[part] = replace(evaluate_labels(predictions), overlap=overlap).to_json()
            before, after = (measure_label_calibration(p.part(part)) for p in (self.before, self.predictions))
            calibration[part] = {"before": before.to_json(), "after": after.to_json()}
        return metrics | {"calibration": calibration}

    def plot(
        self, folder: Path, split: Split, part: Part, metrics: Mapping[str, Any], preprocessing: Preprocessing
    ) -> None:
        """Draw precision over recall of each class, and images with right and wrong labels."""
        title, predictions = f"{PART_TITLES[part]} images", self.predictions.part(part)
        plots.precision_recall.plot_precision_recall(predictions, folder / "precision_recall.png", title=title)
        predictions = predictions.take(np.arange(len(split.with_files(part))))
        if not len(predictions):
            return

        def tile(image: np.ndarray, row: int) -> plots.samples.LabelTile:
            true, said = (
                tuple(predictions.classes[i] for i in np.flatnonzero(of[row]))
                for of in (predictions.indicators, predictions.predicted)
            )
            return plots.samples.LabelTile(image, true, said)

        # The predictions of a part are in its order.
        tiles = with_images(plots.samples.choose_label_samples(predictions), split, part, preprocessing, tile)
        title = f"{title}: their labels, and what is wrong"
        plots.samples.plot_samples(tiles, folder / "sample_predictions.png", title=title)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -700, 700))))


def without_calibration(head: Head, metrics: Mapping[str, Any]) -> None:
    """Take what `MultilabelResults.calibrated` fitted to the val images out of the head, for a fair comparison on them.

    `metrics` are those of the head's run, which for other tasks have no slopes; their temperature is no weight.
    """
    fitted = metrics.get("calibration") or {}
    if "slopes" in fitted:
        slopes, offsets = np.array(fitted["slopes"]), np.array(fitted["offsets"])
        head.rescale((1 / slopes).tolist(), (-offsets / slopes).tolist())
