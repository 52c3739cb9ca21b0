"""What a model says about the images of a data set, image by image, with their labels.

Input: a model, and images or what the head reads of them. Output: `SamplePredictions`, which the task turns into
predictions of classes, labels or numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from regraft import distributed
from regraft.data.dataset import Dataset
from regraft.data.labels import Task
from regraft.data.pooled_answers import pool_answers
from regraft.data.pooling import Counted, groups_of, per_answer
from regraft.data.samples import PARTS
from regraft.errors import DataError
from regraft.evaluation.multilabel.predictions import MultilabelPredictions
from regraft.evaluation.predictions import Predictions
from regraft.evaluation.regression.predictions import RegressionPredictions
from regraft.evaluation.tasks import AnyPredictions
from regraft.models.classifier import Classifier
from regraft.models.inference import Predictor, Tta, has_order, pooling_of, predict_images
from regraft.models.ood import rowwise

#: Images that are predicted at once.
BATCH = 32


@dataclass(frozen=True, eq=False)
class SamplePredictions:
    """What a model says about the images of a data set.

    Attributes:
        dataset: The images, whose classes are those of the model.
        probabilities: float64 (N, C); of numbers these, (N, 1).
        thresholds: Those of a model that gives an image any number of classes, (C,), else ().
        ood_distances: Distance of each image from the nearest class, float64 (N,), or None.
        half_width: Half the width of the prediction interval of numbers; None: there is none.
        names: Names of groups, if the data set has the first image of each; None: those of the images.
    """

    dataset: Dataset
    probabilities: np.ndarray
    thresholds: tuple[float, ...]
    ood_distances: np.ndarray | None
    half_width: float | None = None
    names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.probabilities)

    def pooled(self, task: Task, order_temperature: float | None) -> SamplePredictions:
        """What the model says of groups, if these get one answer each; else all as it is.

        The answers are those of a `task`, as in `pool_answers`; logits have the mean of `regression`.
        """
        if (groups := groups_of(self.dataset)) is None:
            return self
        return replace(
            self, dataset=per_answer(self.dataset), names=groups.names, ood_distances=None,
            probabilities=pool_answers(self.probabilities, groups, task, order_temperature=order_temperature),
        )  # fmt: skip

    def of_task(self) -> AnyPredictions:
        """The predictions as the task of the data has them."""
        if self.dataset.task == "regression":
            return self.number_predictions
        return self.label_predictions if self.dataset.task == "multilabel" else self.predictions

    @property
    def predictions(self) -> Predictions:
        """The predictions of images that have one class."""
        return Predictions(
            ids=self._ids,
            labels=self.dataset.labels,
            probabilities=self.probabilities,
            classes=self.dataset.classes,
            parts=self._parts,
            ordered=self.dataset.ordered,
            counted=self._counted,
        )

    @property
    def label_predictions(self) -> MultilabelPredictions:
        """The predictions of images that have any number of classes."""
        return MultilabelPredictions(
            ids=self._ids,
            indicators=self.dataset.indicators,
            probabilities=self.probabilities,
            classes=self.dataset.classes,
            parts=self._parts,
            thresholds=np.array(self.thresholds),
            counted=self._counted,
        )

    @property
    def number_predictions(self) -> RegressionPredictions:
        """The predictions of images that have a number."""
        return RegressionPredictions(
            ids=self._ids,
            targets=self.dataset.numbers,
            values=self.probabilities[:, 0],
            parts=self._parts,
            half_width=self.half_width,
            quantity=self.dataset.classes[0],
            counted=self._counted,
        )

    @property
    def _ids(self) -> tuple[str, ...]:
        return tuple(self.dataset.table.paths.tolist()) if self.names is None else self.names

    @property
    def _counted(self) -> Counted:
        return "image" if self.names is None else "group"

    @property
    def _parts(self) -> tuple[str, ...]:
        names = ("", *PARTS)
        return tuple(names[part + 1] for part in self.dataset.table.parts.tolist())


def predict_samples(
    classifier: Classifier | Predictor,
    dataset: Dataset,
    *,
    batch_size: int = BATCH,
    tta: Tta = "none",
    progress: Callable[[int, int], None] | None = None,
) -> SamplePredictions:
    """Predict every image, as `predict_dataset`; `DataError` if one can no longer be read since the scan."""
    sources = (dataset.source(sample) for sample in dataset.samples)
    probabilities = np.empty((len(dataset), len(classifier.classes)))
    distances = np.full(len(dataset), np.nan)
    stream = predict_images(classifier, sources, batch_size=batch_size, max_pixels=dataset.max_pixels, tta=tta)
    for number, prediction in enumerate(stream):
        if prediction.error is not None:
            path = dataset.samples[number].path
            raise DataError(f"{path} could be read during the scan, and now cannot: {prediction.error}")
        probabilities[number] = prediction.answer
        if prediction.ood_distance is not None:
            distances[number] = prediction.ood_distance
        if progress:
            progress(number + 1, len(dataset))
    return _as_predictions(dataset, classifier, probabilities, distances)


def predict_jointly(
    classifier: Classifier, dataset: Dataset, *, batch_size: int = BATCH, progress: Callable[[int, int], None]
) -> SamplePredictions:
    """As `predict_samples`, by all processes of a training: they take turns at its batches, and all get every one."""
    processes, count = distributed.world_size(), len(dataset)
    if processes == 1:
        return predict_samples(classifier, dataset, batch_size=batch_size, progress=progress)
    process_of = np.arange(count) // batch_size % processes
    own = np.flatnonzero(process_of == distributed.rank())
    values = np.empty((0, len(classifier.classes) + 1))
    if len(own):
        predicted = predict_samples(
            classifier, dataset.with_samples(dataset.table.take(own)), batch_size=batch_size,
            progress=lambda done, total: progress(min(done * processes, count), count),
        )  # fmt: skip
        distances = np.full(len(own), np.nan) if predicted.ood_distances is None else predicted.ood_distances
        values = np.column_stack([predicted.probabilities, distances])
    whole = np.empty((count, values.shape[1]))
    for process, part in enumerate(distributed.all_gather(values)):
        whole[process_of == process] = part
    return _as_predictions(dataset, classifier, whole[:, :-1], whole[:, -1])


def predict_features(classifier: Classifier, features: torch.Tensor, dataset: Dataset) -> SamplePredictions:
    """Predict the images of a data set from what the head reads of them, float32 (N, F)."""
    head, distances = classifier.head, np.full(len(features), np.nan)
    with torch.inference_mode():
        features = features.to(classifier.mean.device)
        answers = rowwise(lambda rows: head.answer(head.classify(rows)), features).cpu().numpy()
        if classifier.ood is not None:  # in batches, as of images: the last bits are those of a batch
            distances = torch.cat([classifier.ood(rows) for rows in torch.split(features, BATCH)]).cpu().numpy()
    return _as_predictions(dataset, classifier, answers, distances)


def merge_predictions(
    dataset: Dataset, pieces: Sequence[SamplePredictions], places: Sequence[np.ndarray]
) -> SamplePredictions:
    """The predictions of a data set from those of its parts, whose images are at these places in it, int64 (n,)."""
    order = np.argsort(np.concatenate(places))
    of_pieces = (
        np.full(len(piece), np.nan) if piece.ood_distances is None else piece.ood_distances for piece in pieces
    )
    whole = np.concatenate([*of_pieces])[order]
    return replace(
        pieces[0],
        dataset=replace(dataset, classes=pieces[0].dataset.classes, ordered=pieces[0].dataset.ordered),
        probabilities=np.concatenate([piece.probabilities for piece in pieces])[order],
        ood_distances=None if np.isnan(whole).any() else whole,
    )


def _as_predictions(
    dataset: Dataset, classifier: Classifier | Predictor, probabilities: np.ndarray, distances: np.ndarray
) -> SamplePredictions:
    """Combine probabilities of the images of a data set with their labels; a missing distance is NaN."""
    return SamplePredictions(
        replace(dataset, classes=classifier.classes, ordered=has_order(classifier)),
        probabilities,
        classifier.thresholds,
        None if np.isnan(distances).any() else distances,
        # An interval of single images is none of groups, and the other way round.
        classifier.half_width if bool(pooling_of(classifier)) == bool(dataset.pool_by) else None,
    )
