"""The contents of a run's folder whose model gives an image any number of classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from regraft.data.dataset import Part
from regraft.evaluation.multilabel.calibration import MultilabelCalibration
from regraft.evaluation.multilabel.metrics import MultilabelEvaluation, image_losses
from regraft.evaluation.multilabel.predictions import MultilabelPredictions
from regraft.report.record import FEWER, SHOWN, Group, RunRecord


@dataclass(frozen=True)
class LabelSuspect:
    """An image that likely has or lacks a class, contrary to its labels, and the probability of the class, 0..1.

    `labels` are all classes of the image, and the `suggestion` is to add or to remove this one.
    """

    path: str
    labels: tuple[str, ...]
    name: str
    suggestion: str
    probability: float


@dataclass(frozen=True, eq=False)
class MultilabelRecord(RunRecord):
    """What is reported about a run whose model gives an image any number of classes."""

    predictions: MultilabelPredictions | None = None
    evaluations: Mapping[Part, MultilabelEvaluation] = field(default_factory=dict)
    suspects: tuple[LabelSuspect, ...] = ()

    @cached_property
    def reported(self) -> MultilabelPredictions | None:
        """The predictions of the reported part."""
        return self.predictions.part(self.part) if self.predictions is not None and self.part else None

    @property
    def image_counts(self) -> Mapping[str, int]:
        """Number of images by part, each of which `counts` has once for each of its classes."""
        known = {part: (self.metrics.get(part) or {}).get("count") for part in self.counts}
        return {part: count for part, count in known.items() if count is not None}

    @property
    def calibrations(self) -> tuple[MultilabelCalibration, MultilabelCalibration] | None:
        """Calibration of that part before and after it was fitted; None where it was not measured."""
        if not (stored := (self.metrics.get("calibration") or {}).get(self.part)):
            return None
        before, after = (MultilabelCalibration.from_json(stored[when]) for when in ("before", "after"))
        return before, after

    @property
    def at_chance(self) -> str:
        """Why what the model says about single images is not to be believed; "" if it tells a class from the rest."""
        if self.part is None:
            return ""
        evaluation = self.evaluations[self.part]
        if len(evaluation.at_chance) < len(evaluation.tested) or not evaluation.tested:
            return ""
        return (
            f"The model does not clearly tell any class from the rest: its order of the {self.counted}s may be random."
        )

    def picture_groups(self) -> list[Group]:
        """Images with wrong answers, and those whose answers are all right."""
        if (predictions := self.reported) is None:
            return []
        losses = image_losses(predictions)
        wrong = (predictions.predicted != predictions.indicators).any(axis=1)
        order = np.argsort(-losses, kind="stable")
        worst = [int(i) for i in order[wrong[order]][:SHOWN]]
        some = ~wrong & predictions.indicators.any(axis=1)
        best = [int(i) for i in order[::-1][some[order[::-1]]][:FEWER]]
        return [
            ("Top losses: images with a wrong answer and the highest loss", worst, "No answer is wrong."),
            ("Images with a class, all of whose answers are right, with the lowest loss", best, "There is none."),
        ]
