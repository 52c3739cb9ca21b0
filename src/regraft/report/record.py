"""What a run left, as plain values: the one thing that its page and its model card are made of.

Enters: what was read from a run's folder. Leaves: a frozen value that says what it lacks; nothing here reads a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from regraft.data.dataset import Part
from regraft.evaluation.calibration import Calibration, read_calibration
from regraft.evaluation.metrics import Evaluation
from regraft.evaluation.predictions import Predictions

#: Pictures that are shown, at most: of mistakes and of suspects; of other kinds.
SHOWN, FEWER = 16, 8


@dataclass(frozen=True)
class Suspect:
    """An image whose label is likely wrong.

    Attributes:
        path: Its name in the data.
        label: Class that the data says.
        suggested: Class that it looks like.
        probability: Of that class, 0..1.
        given: Of the label's class, 0..1.
    """

    path: str
    label: str
    suggested: str
    probability: float
    given: float


@dataclass(frozen=True, eq=False)
class RunRecord:
    """Everything that is told about a run. What is not known is empty or None.

    Attributes:
        name: Of the run's folder.
        description: What `model.json` says.
        config: `config.toml`, as it stands.
        source: Where the images are or were: a path or a URL; "" where the run does not say.
        metrics: What `metrics.json` says; empty where training was stopped before it was written.
        history: One row an epoch, as `history.csv` has them.
        predictions: Of the validation and test images.
        evaluations: Of these, by part.
        counts: Images of each class, by part.
        suspects: Likely wrong labels among the predictions, the likeliest first.
        hashes: SHA-256 of the run's files, by name.
        comparison: Of several backbones on the same data: `models` and `conclusion`.
    """

    name: str
    description: Mapping[str, Any]
    config: str = ""
    source: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()
    predictions: Predictions | None = None
    evaluations: Mapping[Part, Evaluation] = field(default_factory=dict)
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    suspects: tuple[Suspect, ...] = ()
    hashes: Mapping[str, str] = field(default_factory=dict)
    comparison: Mapping[str, Any] | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in output order."""
        return tuple(self.description["classes"])

    @property
    def backbone(self) -> str:
        """Its name."""
        return str(self.description["backbone"]["name"])

    @property
    def part(self) -> Part | None:
        """What is told of first: test, else val, else nothing."""
        parts: tuple[Part, ...] = ("test", "val")
        return next((part for part in parts if part in self.evaluations), None)

    @property
    def told(self) -> Predictions | None:
        """The predictions of that part."""
        return self.predictions.part(self.part) if self.predictions is not None and self.part else None

    @property
    def calibrations(self) -> tuple[Calibration, Calibration] | None:
        """Before and after the temperature, of that part; None where it was not measured."""
        found = (self.metrics.get("calibration") or {}).get(self.part)
        if not found:
            return None
        return read_calibration(found["before"]), read_calibration(found["after"])

    @property
    def missing(self) -> list[str]:
        """What the run does not hold, in sentences."""
        found = []
        if not self.metrics:
            found.append(
                "Training was stopped before this run was evaluated; `regraft train --resume` goes on with it."
            )
        elif not self.evaluations:
            found.append("There are no images that the model did not learn from: how good it is cannot be said.")
        elif self.part == "val":
            found.append(
                "There is no test part. The numbers are those of the validation images, on which choices were made, so "
                "they are a little too good."
            )
        elif "val" not in self.evaluations:
            found.append("There is no validation part: confidence was not calibrated, and no epoch was chosen by it.")
        if stopped := (self.metrics.get("training") or {}).get("stopped"):
            found.append(f"Training was stopped early: {stopped}.")
        return found

    def short(self, path: str) -> str:
        """An image's name without the folder that all of the predicted ones lie in."""
        return path[len(self._folder) :] if path.startswith(self._folder) else path

    @cached_property
    def _folder(self) -> str:
        ids = self.predictions.ids if self.predictions is not None else ()
        if not ids:
            return ""
        low, high = min(ids), max(ids)  # whatever these begin with, all between them do
        same = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
        return low[: low.rfind("/", 0, same) + 1]

    def worst(self) -> list[int]:
        """Of the predictions told, the wrong ones, the most confident first."""
        told = self.told
        if told is None:
            return []
        wrong = np.flatnonzero(told.predicted != told.labels)
        return [int(i) for i in wrong[np.argsort(-told.confidence[wrong], kind="stable")][:SHOWN]]

    def best(self) -> list[int]:
        """The right ones, the most confident first and each class in its turn."""
        told = self.told
        if told is None:
            return []
        order = np.argsort(-told.confidence, kind="stable")
        order = order[(told.predicted == told.labels)[order]]
        turns = np.zeros(len(order), dtype=np.int64)
        for name in np.unique(told.labels[order]):
            those = told.labels[order] == name
            turns[those] = np.arange(those.sum())
        return [int(i) for i in order[np.argsort(turns, kind="stable")][:FEWER]]

    def doubtful(self) -> list[int]:
        """Right or wrong, those of the least confidence."""
        told = self.told
        return [] if told is None else [int(i) for i in np.argsort(told.confidence, kind="stable")[:FEWER]]

    def pictured(self) -> list[str]:
        """Names of all images of which a page shows a picture."""
        return list(dict.fromkeys([*self.answered(), *(suspect.path for suspect in self.suspects[:SHOWN])]))

    def answered(self) -> list[str]:
        """Names of those that it shows for the answer: the worst, the best and the least sure."""
        told = self.told
        those = [] if told is None else [told.ids[i] for i in (*self.worst(), *self.best(), *self.doubtful())]
        return list(dict.fromkeys(those))
