"""Evaluate a model on labelled images.

Enters: a run, a model or predictions, and labelled data. Leaves: `Predictions` and an `Evaluation`. Images go the way
that `predict` sends them: from the files, through the same decoder and network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from regraft.data.dataset import Dataset, Part, Split
from regraft.data.scan import OnBad, scan
from regraft.errors import DataError, UsageError
from regraft.evaluation.metrics import Evaluation
from regraft.evaluation.metrics import evaluate as evaluate_predictions
from regraft.evaluation.predictions import Predictions
from regraft.models.classifier import Classifier
from regraft.models.inference import Prediction, Predictor, Tta, predict_images
from regraft.pipeline.run import Run


def evaluate(
    model: Run | Classifier | Predictor | Predictions,
    data: Dataset | Split | Path | str | None = None,
    *,
    part: Part | None = None,
) -> Evaluation:
    """Evaluate on labelled images.

    Args:
        model: A run, a model, an export, or predictions that exist already.
        data: Labelled images, or a path that `scan` takes. Without it, the predictions that a run keeps are evaluated.
        part: Of data that comes in parts; default: test where there is one, else everything (val, of a run's own).

    Raises:
        UsageError: A model without data.
        DataError: There is nothing to evaluate, or a label that the model does not know.
    """
    if isinstance(model, Predictions):
        return evaluate_predictions(model.part(part) if part else model)
    if data is None:
        if not isinstance(model, Run):
            raise UsageError("evaluate(model) needs labelled data: evaluate(model, dataset).")
        return model.evaluate(part)
    classifier = model.classifier if isinstance(model, Run) else model
    return evaluate_predictions(predict_dataset(classifier, labelled(data, classifier, part)))


def labelled(
    data: Dataset | Split | Path | str,
    classifier: Classifier | Predictor,
    part: Part | None = None,
    *,
    on_bad: OnBad = "skip",
    remote: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """The labelled images to evaluate on.

    Raises:
        DataError: No image, or a label that the model does not know.
    """
    if isinstance(data, (Path, str)):
        data = scan(data, on_bad=on_bad, remote=remote, classes=classifier.classes, twins=False, progress=progress)
    if isinstance(data, Split):
        data = data.dataset
    present = {s.part for s in data.samples}
    wanted = part or ("test" if "test" in present else None)
    chosen = data.with_samples([s for s in data.samples if wanted is None or s.part == wanted])
    unknown = sorted({s.label for s in chosen.samples} - set(classifier.classes))
    if unknown:
        raise DataError(
            f"The data has labels that the model does not know: {', '.join(unknown)}. "
            f"It knows {', '.join(classifier.classes)}."
        )
    if not len(chosen):
        raise DataError(f"There is no image to evaluate{f' in the part {wanted}' if wanted else ''}.")
    return chosen


def predict_dataset(
    classifier: Classifier | Predictor,
    dataset: Dataset,
    *,
    batch_size: int = 32,
    tta: Tta = "none",
    progress: Callable[[int, int], None] | None = None,
) -> Predictions:
    """Probabilities of every image of a data set, in its order; `tta` as for `predict`.

    Raises:
        DataError: An image that was readable when it was scanned no longer is.
    """
    return as_predictions(answers_for(classifier, dataset, batch_size=batch_size, tta=tta, progress=progress), dataset)


def answers_for(
    classifier: Classifier | Predictor,
    dataset: Dataset,
    *,
    batch_size: int = 32,
    tta: Tta = "none",
    progress: Callable[[int, int], None] | None = None,
) -> list[Prediction]:
    """The same, as answers.

    Raises:
        DataError: An image that was readable when it was scanned no longer is.
    """
    sources = (dataset.source(sample) for sample in dataset.samples)
    found: list[Prediction] = []
    for prediction, sample in zip(
        predict_images(classifier, sources, batch_size=batch_size, max_pixels=dataset.max_pixels, tta=tta),
        dataset.samples,
        strict=True,
    ):
        if prediction.error is not None:
            raise DataError(f"{sample.path} can no longer be read: {prediction.error}")
        found.append(prediction)
        if progress:
            progress(len(found), len(dataset))
    return found


def as_predictions(answers: Sequence[Prediction], dataset: Dataset) -> Predictions:
    """Answers for the images of a data set, with their labels."""
    index = {name: i for i, name in enumerate(answers[0].classes)}
    return Predictions(
        ids=tuple(s.path for s in dataset.samples),
        labels=np.array([index[s.label] for s in dataset.samples], dtype=np.int64),
        probabilities=np.stack([answer.probabilities for answer in answers]),
        classes=answers[0].classes,
        parts=tuple(s.part or "" for s in dataset.samples),
    )
