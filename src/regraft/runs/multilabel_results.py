"""Calibrate and evaluate a model that gives an image any number of classes; `finalize` does it for one class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from regraft.data.samples import Part
from regraft.evaluation.multilabel.calibration import fit_slopes_and_offsets
from regraft.evaluation.multilabel.metrics import binary_log_loss, evaluate_labels
from regraft.evaluation.multilabel.predictions import MultilabelPredictions
from regraft.evaluation.multilabel.thresholds import thresholds_for_f1
from regraft.models.head import Head


@dataclass(frozen=True)
class LabelCalibration:
    """Predictions before and after calibration, with the slope and the offset of each class's logit, float64 (C,)."""

    before: MultilabelPredictions
    after: MultilabelPredictions
    slopes: np.ndarray
    offsets: np.ndarray


def calibrate_labels(head: Head, predicted: MultilabelPredictions) -> LabelCalibration:
    """Fit each class's calibration and threshold to the val images, and change the head's last layer accordingly."""
    tiny = np.finfo(np.float64).eps
    probabilities = np.clip(predicted.probabilities, tiny, 1 - tiny)
    logits = np.log(probabilities) - np.log1p(-probabilities)
    is_val = np.array([part == "val" for part in predicted.parts], bool)
    slopes, offsets = fit_slopes_and_offsets(predicted.indicators[is_val], logits[is_val])
    calibrated = 1 / (1 + np.exp(-np.clip(slopes * logits + offsets, -700, 700)))
    thresholds = thresholds_for_f1(predicted.indicators[is_val], calibrated[is_val])
    head.rescale(slopes.tolist(), offsets.tolist())
    head.thresholds = tuple(thresholds.tolist())
    after = replace(predicted, probabilities=calibrated, thresholds=thresholds)
    return LabelCalibration(predicted, after, slopes, offsets)


def measure_labels(calibration: LabelCalibration, parts: Sequence[Part]) -> dict[str, Any]:
    """The sections `val`, `test` and `calibration` of `metrics.json`."""
    metrics: dict[str, Any] = {part: evaluate_labels(calibration.after.part(part)).to_json() for part in parts}
    section: dict[str, Any] = {
        "fitted_on": "val" if "val" in parts else None,
        "slopes": calibration.slopes.tolist(),
        "offsets": calibration.offsets.tolist(),
    }
    for part in parts:
        both = {"before": calibration.before.part(part), "after": calibration.after.part(part)}
        section[part] = {name: {"loss": binary_log_loss(p.indicators, p.probabilities)} for name, p in both.items()}
    return metrics | {"calibration": section}
