"""What `regraft predict` answers: each image, or each group of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from regraft.cli.output import err

if TYPE_CHECKING:
    from regraft.models.classifier import Classifier
    from regraft.models.inference import Prediction, Predictor


def answers(
    stream: Iterator[Prediction],
    groups: Sequence[str | None] | None,
    failed: list[Prediction],
    progress: Callable[[int], None] | None,
) -> Iterator[Prediction]:
    """Yield the predictions of images, or at the end those of their groups, without intervals.

    Images that cannot be read are added to `failed`, and `progress` is called with the number of images so far.
    """
    from regraft.models.pooled_predictions import pool_predictions

    images: list[Prediction] = []
    for done, prediction in enumerate(stream, start=1):
        if prediction.error is not None:
            failed.append(prediction)
        if groups is None:
            yield prediction
        else:
            images.append(prediction)
        if progress:
            progress(done)
    if groups is not None:
        yield from pool_predictions(images, groups, half_width=None)


def refuse_limits_of_groups(model: Classifier | Predictor, path: Path, limits: Mapping[str, Any]) -> None:
    """Raise `UsageError` for options, by their flags, that are fitted on validation groups, where images are answered.

    Warns where the model of the folder `path` was trained on groups and no such option is given.
    """
    from regraft.errors import UsageError
    from regraft.models.inference import pooling_of

    if not (trained_by := pooling_of(model)):
        return
    if given := [flag for flag, value in limits.items() if value is not None]:
        raise UsageError(
            f"{', '.join(given)} is chosen on the validation images, and {path} has one answer for each group of them "
            f"({trained_by}), of which it holds. For single images nothing is known: give --pool-by, or leave it out."
        )
    beside = "has no interval" if model.task == "regression" else "is not calibrated"
    err.print(
        escape(
            f"The model was trained on groups ({trained_by}): --pool-by gives one answer for each. That of a single "
            f"image {beside}."
        )
    )


def name_of(prediction: Prediction) -> dict[str, Any]:
    """The path of an image, or the name of a group and the number of its images that could be read."""
    if prediction.pictures is None:
        return {"path": prediction.source}
    return {"group": prediction.source, "images": prediction.pictures}
