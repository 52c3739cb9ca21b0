"""The contents of a run's folder whose model gives an image a number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from regraft.data.dataset import Part
from regraft.evaluation.regression.metrics import RegressionEvaluation
from regraft.evaluation.regression.predictions import RegressionPredictions
from regraft.report.record import FEWER, SHOWN, Group, RunRecord


@dataclass(frozen=True, eq=False)
class RegressionRecord(RunRecord):
    """What is reported about a run whose model gives an image a number."""

    predictions: RegressionPredictions | None = None
    evaluations: Mapping[Part, RegressionEvaluation] = field(default_factory=dict)
    suspects: tuple[()] = ()

    @cached_property
    def reported(self) -> RegressionPredictions | None:
        """The predictions of the reported part."""
        return self.predictions.part(self.part) if self.predictions is not None and self.part else None

    @property
    def quantity(self) -> str:
        """What the numbers are."""
        return self.classes[0]

    @property
    def at_chance(self) -> str:
        """Why what the model says about single images is not to be believed; "" if it is, or was not evaluated."""
        return self.evaluations[self.part].no_better if self.part else ""

    def picture_groups(self) -> list[Group]:
        """Images with the largest and the smallest errors."""
        if (predictions := self.reported) is None:
            return []
        order = np.argsort(-np.abs(predictions.residuals), kind="stable")
        return [
            ("Largest errors", [int(i) for i in order[:SHOWN]], ""),
            ("Smallest errors", [int(i) for i in order[SHOWN:][::-1][:FEWER]], ""),
        ]
