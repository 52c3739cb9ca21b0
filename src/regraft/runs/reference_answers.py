"""What a run's model said of images that it had not seen: the reference for what it says in use."""

from __future__ import annotations

from regraft.evaluation.stored_predictions import find_predictions
from regraft.evaluation.tasks import AnyPredictions
from regraft.runs.run import METRICS, Run


def reference_answers(run: Run) -> AnyPredictions:
    """Stored predictions of the validation images; of the test images, if the head has learned from the validation.

    A head that was fitted again (`training.refit`) is another one than that which predicted the validation images. They
    are the reference all the same where there is no test part. Raises as `Run.every_prediction`.
    """
    stored = run.every_prediction
    test = stored.part("test")
    return test if is_refitted(run) and len(test) else stored.part("val")


def is_refitted(run: Run) -> bool:
    """Whether the head was fitted again, on training and validation images."""
    return bool((run.path / METRICS).is_file() and run.metrics.get("training", {}).get("refitted"))


def has_answers(run: Run) -> bool:
    """Whether predictions of single images are stored."""
    return not run.description.get("pool_by") and find_predictions(run.path) is not None
