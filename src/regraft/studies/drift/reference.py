"""What a run saw and said in validation: the reference that new pictures are compared with."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from regraft.data.decode import ImageSource
from regraft.errors import ImageError, UsageError
from regraft.evaluation.drift.changes import FEW
from regraft.evaluation.drift.observations import Observations
from regraft.runs.exemplars import read_exemplars
from regraft.runs.reference_answers import is_refitted, reference_answers
from regraft.runs.run import Run
from regraft.runs.run_images import images_of
from regraft.studies.drift.observe import observe
from regraft.text import pluralize
from regraft.training.callbacks import ProgressReporter

#: Validation images that are read again for their features at most, and kept features from which on none is.
_READ, _ENOUGH = 500, 50


def validation_of(run: Run, reporter: ProgressReporter, *, features: bool) -> tuple[Observations, list[str]]:
    """The observations of a run's validation images, and notes; `features` says whether features are wanted.

    The answers are those that the run has stored, and the distances those of its detector. Features are those that the
    run has kept for growing, or else of validation images that are read again.

    Raises:
        UsageError: The run has no validation images, or it answers groups of images.
        RunError: The training was stopped before the evaluation.
    """
    if pool_by := run.description.get("pool_by"):
        raise UsageError(
            f"{run.path} gives groups of images one answer each ({pool_by}), and single images have nothing that they "
            "could be compared with. `regraft drift` is for runs that answer each image."
        )
    predictions = reference_answers(run)
    if not len(predictions):
        raise UsageError(
            f"{run.path} has no validation images to compare with. Give other pictures with --against, or train with a "
            "validation part."
        )
    observed, notes = Observations.of_predictions(predictions), list[str]()
    if is_refitted(run):
        of_test = "test" in predictions.parts
        compared = "those for the test images" if of_test else "those of the head before, which may be less confident"
        notes.append(
            "The head of the run was fitted again, on validation images, too (training.refit). So answers are compared "
            f"with {compared}."
        )
    ood = run.classifier.ood
    if ood is None or not len(ood.calibration_distances):
        notes.append(
            f"{run.path} has no out-of-distribution detector, so only answers are compared. It needs a class with two "
            "training images, and a training that was not interrupted."
        )
        return observed, notes
    observed = replace(observed, distances=ood.calibration_distances.numpy().astype(np.float64))
    if not features:
        return observed, notes
    found = _kept_features(run)
    if found is None or len(found) < min(_ENOUGH, len(predictions)):
        again = _features_again(run, run.every_prediction.part("val").ids, reporter)
        found = again if again is not None else found
    if found is None or len(found) < FEW:
        count = len(run.every_prediction.part("val"))
        why = f"the run has {pluralize(count, 'validation image')}, and they are compared from {FEW} on"
        if count >= FEW:
            why = "the run has kept too few of its validation images', and the images are not where they were"
        notes.append(f"Features are not compared: {why}. Distances and answers are compared.")
        return observed, notes
    return replace(observed, features=found), notes


def _kept_features(run: Run) -> np.ndarray | None:
    """Features of validation images that the run has kept, float32 (E, F), with the classes' shares in validation.

    The run keeps as many of each class, so some are drawn of those of which it has too many.
    """
    kept = read_exemplars(run.path)
    if kept is None:
        return None
    kept = kept.take(np.array([part == "val" for part in kept.parts], bool))
    counts = Counter(run.predictions.part("val").label_names)
    available = Counter(kept.labels)
    share = min((available[label] / count for label, count in counts.items()), default=0.0)
    labels, rng = np.array(kept.labels, object), np.random.default_rng(0)
    chosen = [
        rng.permutation(np.flatnonzero(labels == label))[: round(share * count)] for label, count in counts.items()
    ]
    rows = np.sort(np.concatenate(chosen)) if chosen else np.empty(0, np.int64)
    return kept.stored.features[rows]


def _features_again(run: Run, names: tuple[str, ...], reporter: ProgressReporter) -> np.ndarray | None:
    """Features of validation images that are read again, as far as they are there and unchanged; None without any."""
    source = images_of(run)
    if source is None:
        return None
    order = np.random.default_rng(0).permutation(len(names))[:_READ]
    sources: list[ImageSource] = []
    for row in np.sort(order).tolist():
        try:
            sources.append(source(names[row]))
        except (ImageError, OSError):
            continue
    if not sources:
        return None
    observed, _ = observe(run.classifier, sources, range(len(sources)), reporter, "validation")
    return observed.features
