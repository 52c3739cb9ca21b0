"""What `regraft predict` answers: each image, or each group of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from regraft.models.inference import Prediction


def answers(
    stream: Iterator[Prediction],
    groups: Sequence[str | None] | None,
    failed: list[Prediction],
    progress: Callable[[int], None] | None,
) -> Iterator[Prediction]:
    """Yield the predictions of images, or at the end those of their groups.

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
        yield from pool_predictions(images, groups)


def name_of(prediction: Prediction) -> dict[str, Any]:
    """The path of an image, or the name of a group and the number of its images that could be read."""
    if prediction.pictures is None:
        return {"path": prediction.source}
    return {"group": prediction.source, "images": prediction.pictures}
