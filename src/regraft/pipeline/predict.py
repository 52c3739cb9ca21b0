"""Predict images with a run, a model or an export."""

from __future__ import annotations

from collections.abc import Iterable

from regraft.data.decode import ImageSource
from regraft.models.classifier import Classifier
from regraft.models.inference import Prediction, Predictor, Tta, one_or_many, predict_images
from regraft.pipeline.run import Run
from regraft.shown import Several


def predict(
    model: Run | Classifier | Predictor,
    sources: ImageSource | Iterable[ImageSource],
    *,
    batch_size: int = 32,
    tta: Tta = "none",
) -> list[Prediction]:
    """Predict one image or many.

    Args:
        model: A run, a model, or an export.
        sources: Paths, encoded bytes or arrays, or one of these; a folder stands for the images below it, and a file
            that cannot be read gets an answer that says so.
        batch_size: Images for one pass of the network.
        tta: Test-time augmentation: `none`, `flip` (twice the work) or `crops` (twelve times).

    Returns:
        One `Prediction` an image, in order.

    Raises:
        UsageError: A folder has no image.
    """
    classifier = model.classifier if isinstance(model, Run) else model
    return Several(predict_images(classifier, one_or_many(sources), batch_size=batch_size, tta=tta))
