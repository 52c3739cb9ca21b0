"""Predict images with a run, a model or an export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from regraft.errors import suggest_names
from regraft.models.classifier import Classifier
from regraft.models.image_sources import iter_sources
from regraft.models.inference import Prediction, Predictor, Tta, predict_images
from regraft.models.pooled_predictions import pool_predictions
from regraft.notebook_repr import ResultList
from regraft.runs.run import Run, classifier_of


@suggest_names
def predict(
    model: Run | Path | str | Classifier | Predictor,
    sources: Any,
    *,
    batch_size: int = 32,
    tta: Tta = "none",
    groups: Sequence[str | None] | str | None = None,
) -> list[Prediction]:
    r"""Predict one image or many.

    Args:
        model: A run or its folder, a model, or an export. A folder is loaded by each call; `regraft.load` does so once.
        sources: One image or a collection of images: paths (a folder means all images below it), the bytes of image
            files, files that are open for reading bytes, Pillow images, NumPy arrays (H, W, C) or (H, W), and tensors
            (C, H, W) or (H, W). Arrays and tensors are uint8, or float in 0..1 or, as in Keras, in 0..255; four axes
            are a batch. A file that cannot be read gives a `Prediction` with an `error`.
        batch_size: Number of images per batch.
        tta: Test-time augmentation: `none`, `flip` (2 times slower) or `crops` (12 times slower).
        groups: For one answer for several pictures of one thing: the name of each image's group, or None for one by
            itself; or a regular expression that finds it in the path, such as `patient(\d+)`. Images of a group that
            cannot be read do not count, as `Prediction.pictures` shows. A model that was trained on single images is
            not calibrated for groups of several, and has no interval for them. Default: each image is answered.

    Returns:
        One `Prediction` per image, in order; or one per group, as they first occur, whose `source` is its name.

    Raises:
        UsageError: A folder contains no image, a source or the model is something else, or there are not as many names
            of groups as images; it says what.

    Examples:
        >>> prediction = regraft.predict("runs/photos", "photos/rose/00.png")[0]
        >>> prediction.label in prediction.classes
        True
    """
    opened = classifier_of(model)
    images = iter_sources(sources, bands=opened.preprocessing.bands)
    predictions = predict_images(opened, images, batch_size=batch_size, tta=tta)
    if groups is None:
        return ResultList(predictions)
    return ResultList(pool_predictions(list(predictions), groups, opened))
