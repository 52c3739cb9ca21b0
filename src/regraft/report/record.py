"""The contents of a run's folder as plain values, from which its page and its model card are made."""

from __future__ import annotations

import tomllib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from regraft.data.dataset import Part
from regraft.data.labels import Task
from regraft.data.pooling import Counted
from regraft.errors import RunError
from regraft.evaluation.calibration import (
    Calibration,
    apply_temperature,
    measure_calibration,
    read_calibration,
)
from regraft.evaluation.metrics import ClassReport, Evaluation
from regraft.evaluation.predictions import Predictions
from regraft.evaluation.tasks import AnyEvaluation, AnyPredictions
from regraft.licenses import describe_conditions
from regraft.report.run_table import describe_trained

#: Maximum number of pictures of wrong predictions and of likely label errors, and of each other kind.
SHOWN, FEWER = 16, 8
#: What is said of a network without pretrained weights, and where a model is not clearly better than a constant.
RANDOM_WEIGHTS = (
    "The network started from random weights, not from pretrained ones: all that it knows comes from these images."
)
WITHHELD = "Likely label errors and heat maps are withheld: they mean something only where it is."
#: Heading of pictures, indices of predictions, and what to say if there are none.
Group = tuple[str, list[int], str]


@dataclass(frozen=True)
class Suspect:
    """An image whose label is likely wrong, the class that is suggested, and the probabilities of both classes."""

    path: str
    label: str
    suggested: str
    probability: float
    given: float


@dataclass(frozen=True, eq=False)
class RunRecord(ABC):
    """Everything that is reported about a run. Unknown values are empty or None.

    `description`, `config` and `metrics` are the contents of `model.json`, `config.toml` and `metrics.json`, `history`
    and `head_path` the rows of the CSV files; `source` is the path or URL of the images. `evaluations` are those of the
    validation and test images, `counts` the images of each class, by part, `suspects` the likely label errors, the most
    likely first, `hashes` the SHA-256 of the run's files, and `comparison` the `models` and `conclusion` of a
    comparison that includes the run. Each task has a class of its own.
    """

    name: str
    description: Mapping[str, Any]
    config: str = ""
    source: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()
    head_path: Sequence[Mapping[str, Any]] = ()
    predictions: AnyPredictions | None = None
    evaluations: Mapping[Part, AnyEvaluation] = field(default_factory=dict)
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    suspects: tuple[Any, ...] = ()
    hashes: Mapping[str, str] = field(default_factory=dict)
    comparison: Mapping[str, Any] | None = None

    @property
    def task(self) -> Task:
        """What the model says about an image."""
        task: Task = self.description.get("head", {}).get("task", "classification")
        return task

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in output order."""
        return tuple(self.description["classes"])

    @property
    def backbone(self) -> str:
        """Name of the backbone."""
        return str(self.description["backbone"]["name"])

    @property
    def backbone_search(self) -> Mapping[str, Any] | None:
        """How the backbone was chosen; None where it was given."""
        search: Mapping[str, Any] | None = self.metrics.get("backbone_search")
        return search

    @property
    def part(self) -> Part | None:
        """The part whose results are reported: test, else val, else None."""
        parts: tuple[Part, ...] = ("test", "val")
        return next((part for part in parts if part in self.evaluations), None)

    @cached_property
    def reported(self) -> AnyPredictions | None:
        """The predictions of that part."""
        return self.predictions.part(self.part) if self.predictions is not None and self.part else None

    @property
    def image_counts(self) -> Mapping[str, int]:
        """Number of images by part."""
        return {part: sum(counts.values()) for part, counts in self.counts.items()}

    @property
    def counted(self) -> Counted:
        """What has one answer, and is counted by metrics and predictions: an `image`, or a `group` of images."""
        return "group" if "groups" in self.metrics else "image"

    @property
    def has_random_weights(self) -> bool:
        """Whether the network started from random weights."""
        return (self.description.get("weights") or {}).get("source") == "none"

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """The sections of `config.toml`; empty if there is none. Raises `RunError` if it is damaged."""
        try:
            return tomllib.loads(self.config)
        except tomllib.TOMLDecodeError as error:
            raise RunError(f"config.toml of {self.name} is damaged: {error}. Copy the run again.") from error

    @property
    def data_name(self) -> str:
        """The name of the data without its folder, which a document that is published must not tell."""
        return PurePosixPath(self.source.replace("\\", "/")).name or self.name

    @property
    def license_conditions(self) -> list[str]:
        """What the licenses of the pretrained weights ask of a commercial user, in sentences."""
        return describe_conditions(self.description.get("weights") or {})

    @property
    def cautions(self) -> list[str]:
        """What the images are too few to say, in sentences."""
        return [] if self.part is None else self.evaluations[self.part].cautions()

    @property
    def training_sentence(self) -> str:
        """The model and which of its layers were trained; "" where this is not known."""
        if not (model := self.metrics.get("model")):
            return ""
        return f"{model['backbone']} at {model['image_size']} pixels; trained: {describe_trained(model)}."

    @property
    def missing(self) -> list[str]:
        """What the run does not contain, in sentences."""
        sentences = []
        if not self.metrics:
            sentences.append("Training was stopped before the model was evaluated; "
                             "`regraft train --resume` continues it.")  # fmt: skip
        elif not self.evaluations and any(part in self.metrics for part in ("val", "test")):
            sentences.append("predictions.csv is missing, so the model cannot be reported. Copy the run again.")
        elif not self.evaluations:
            sentences.append("The run has no validation or test images: the accuracy of the model is unknown.")
        elif self.part == "val":
            sentences.append(f"The run has no test {self.counted}s. These are the metrics of the validation "
                             f"{self.counted}s; they are a bit too high, since these also chose the epoch and the "
                             "settings.")  # fmt: skip
        elif "val" not in self.evaluations:
            sentences.append(f"The run has no validation {self.counted}s: the confidence is not calibrated, and the "
                             "last epoch was kept.")  # fmt: skip
        if stopped := (self.metrics.get("training") or {}).get("stopped"):
            sentences.append(f"Training was stopped early: {stopped}.")
        return sentences

    def short(self, path: str) -> str:
        """Return an image's name without the folder that contains all predicted images."""
        return path.removeprefix(self._common_folder)

    @cached_property
    def _common_folder(self) -> str:
        ids = self.predictions.ids if self.predictions is not None else ()
        if not ids:
            return ""
        first, last = min(ids), max(ids)  # the common prefix of these two is that of all between them
        pairs = enumerate(zip(first, last, strict=False))
        same = next((i for i, (a, b) in pairs if a != b), min(len(first), len(last)))
        return first[: first.rfind("/", 0, same) + 1]

    @property
    @abstractmethod
    def at_chance(self) -> str:
        """Why what the model says about single images is not to be believed; "" if it is, or was not evaluated."""

    @abstractmethod
    def picture_groups(self) -> list[Group]:
        """Pictures of predictions: heading, indices of reported predictions, and what to say if there are none."""

    def image_names(self) -> list[str]:
        """Names of all images that a page shows."""
        return list(dict.fromkeys([*self.predicted_image_names(), *(s.path for s in self.suspects[:SHOWN])]))

    def predicted_image_names(self) -> list[str]:
        """Names of the images that a page shows for their prediction."""
        if (predictions := self.reported) is None:
            return []
        return list(dict.fromkeys(predictions.ids[i] for _, rows, _ in self.picture_groups() for i in rows))


@dataclass(frozen=True, eq=False)
class ClassificationRecord(RunRecord):
    """What is reported about a run whose model gives an image one class."""

    predictions: Predictions | None = None
    evaluations: Mapping[Part, Evaluation] = field(default_factory=dict)
    suspects: tuple[Suspect, ...] = ()

    @cached_property
    def reported(self) -> Predictions | None:
        """The predictions of the reported part."""
        return self.predictions.part(self.part) if self.predictions is not None and self.part else None

    @property
    def calibrations(self) -> tuple[Calibration, Calibration] | None:
        """Calibration of that part before and after temperature scaling; None where it was not measured."""
        return calibrations_of(self.metrics, self.reported, self.part)

    @property
    def at_chance(self) -> str:
        """Why the model is not clearly better than the majority class; "" if it is, or was not evaluated."""
        return self.evaluations[self.part].at_chance if self.part else ""

    def worst(self) -> list[int]:
        """Indices of reported predictions: the wrong ones, the most confident first."""
        if (predictions := self.reported) is None:
            return []
        wrong = np.flatnonzero(predictions.predicted != predictions.labels)
        return [int(i) for i in wrong[np.argsort(-predictions.confidence[wrong], kind="stable")][:SHOWN]]

    def best(self) -> list[int]:
        """Indices of reported predictions: the correct ones, the most confident first, the classes in turn."""
        if (predictions := self.reported) is None:
            return []
        order = np.argsort(-predictions.confidence, kind="stable")
        order = order[(predictions.predicted == predictions.labels)[order]]
        ranks = np.zeros(len(order), dtype=np.int64)  # of each image within its class
        for label in np.unique(predictions.labels[order]):
            members = predictions.labels[order] == label
            ranks[members] = np.arange(members.sum())
        return [int(i) for i in order[np.argsort(ranks, kind="stable")][:FEWER]]

    def least_confident(self) -> list[int]:
        """Indices of reported predictions: those with the lowest confidence."""
        if (predictions := self.reported) is None:
            return []
        return [int(i) for i in np.argsort(predictions.confidence, kind="stable")[:FEWER]]

    def weakest_first(self) -> list[ClassReport]:
        """Per-class metrics of the reported part, the lowest F1 first and classes without images last."""
        rows = self.evaluations[self.part].per_class if self.part else ()
        return sorted(rows, key=lambda row: (row.support == 0, row.f1))

    def picture_groups(self) -> list[Group]:
        """Wrong, right and least confident predictions."""
        return [
            ("Top losses: wrong predictions with the highest confidence", self.worst(), "No prediction is wrong."),
            ("Correct predictions with the highest confidence", self.best(), "No prediction is correct."),
            ("Lowest confidence", self.least_confident(), ""),
        ]


def calibrations_of(
    metrics: Mapping[str, Any], predictions: Predictions | None, part: str | None
) -> tuple[Calibration, Calibration] | None:
    """Calibration of a part before and after temperature scaling, from `metrics.json`; None where it is missing.

    An earlier version stored it without what chance alone gives, which is then computed from the part's predictions.
    """
    stored = metrics.get("calibration") or {}
    if not (values := stored.get(part)):
        return None
    before, after = read_calibration(values["before"]), read_calibration(values["after"])
    if after.chance is None and predictions is not None:
        plain = apply_temperature(predictions.probabilities, 1 / stored["temperature"])
        before, after = (measure_calibration(p) for p in (replace(predictions, probabilities=plain), predictions))
    return before, after
