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
    model: Classifier | Predictor,
    groups: Sequence[str | None] | None,
    failed: list[Prediction],
    progress: Callable[[int], None] | None,
) -> Iterator[Prediction]:
    """Yield the predictions of images by a model, or at the end those of their groups.

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
        yield from pool_predictions(images, groups, model)


def refuse_limits_of_others(
    model: Classifier | Predictor, path: Path, limits: Mapping[str, Any], *, grouped: bool
) -> None:
    """Raise `UsageError` for options, by their flags, that are fitted on validation groups, where images are answered.

    Or on single validation images, where groups are answered (`grouped`). Warns where the model of the folder `path`
    was trained on the other ones and no such option is given.
    """
    from regraft.errors import UsageError

    if not (text := describe_others(model, grouped=grouped)):
        return
    if given := [flag for flag, value in limits.items() if value is not None]:
        kind = "single images" if grouped else "groups"
        advice = "Leave out --pool-by, or" if grouped else "Give --pool-by, or"
        raise UsageError(
            f"{', '.join(given)} is chosen on the validation images, and {path} was trained on {kind}, of which it "
            f"holds. For {'groups' if grouped else 'single images'} nothing is known. {advice} leave it out."
        )
    err.print(escape(text))


def describe_others(model: Classifier | Predictor, *, grouped: bool) -> str:
    """A sentence if a model was trained on groups and answers single images, or the other way round (`grouped`)."""
    from regraft.models.inference import pooling_of

    if bool(trained_by := pooling_of(model)) == grouped:
        return ""
    beside = "has no interval" if model.task == "regression" else "is not calibrated"
    if grouped:
        return (
            "The model was trained on single images: the answer for a group of several is that of their mean, and "
            f"{beside}. `regraft train --pool-by` makes a model for groups."
        )
    return (
        f"The model was trained on groups ({trained_by}): --pool-by gives one answer for each. That of a single image "
        f"{beside}."
    )


def name_of(prediction: Prediction) -> dict[str, Any]:
    """The path of an image, or the name of a group and the number of its images that could be read."""
    if prediction.pictures is None:
        return {"path": prediction.source}
    return {"group": prediction.source, "images": prediction.pictures}
