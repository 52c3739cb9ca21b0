"""Predictions of images become those of groups: several pictures of one thing get one answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from regraft.data.labels import Task
from regraft.data.pooled_answers import pool_answers, pool_p_values
from regraft.data.pooling import Groups
from regraft.data.sources.groups import compile_pattern, group_of, is_word
from regraft.data.strings import Names, string_array
from regraft.errors import UsageError
from regraft.models.classifier import Classifier
from regraft.models.inference import Prediction, Predictor, half_width_for, order_temperature_of


def pool_predictions(
    predictions: Sequence[Prediction], groups: Sequence[str | None] | str, model: Classifier | Predictor
) -> list[Prediction]:
    """One prediction for each group, in the order in which they first occur: that of the mean logits of its images.

    `groups` are the names of the images' groups, None for an image by itself, or a regular expression that finds them
    in the paths. The interval is that of `half_width_for`, which a model of single images has for a group of one
    alone. The p-value of a group is that of `pool_p_values`, and
    its distance the largest. Images that cannot be read do not count in `Prediction.pictures`, and a group of such
    images alone has an `error`. Raises `UsageError` if there are not as many names as images, or the text is a word,
    which finds no more than one group.
    """
    if isinstance(groups, str):
        if is_word(groups):
            raise UsageError(
                f"groups={groups!r} is a word; expected a regular expression that finds the group in a path, such as "
                r"patient(\d+), or the group of each image, in a list."
            )
        pattern = compile_pattern(groups, "groups")
        groups = [group_of(prediction.source, pattern) for prediction in predictions]
    if len(groups) != len(predictions):
        raise UsageError(f"groups has {len(groups)} names for {len(predictions)} images; expected one for each image.")
    # Images in memory have no path.
    names = [prediction.source or f"image {number}" for number, prediction in enumerate(predictions)]
    every = Groups.named(Names.of(groups), string_array(names))
    read = np.flatnonzero([prediction.error is None for prediction in predictions])
    found_of = _of_read([predictions[i] for i in read.tolist()], every.numbers[read], order_temperature_of(model))
    pooled = dict(found_of)
    answers = []
    for number, name in enumerate(every.names):
        first = predictions[every.firsts[number]]
        if (found := pooled.get(number)) is None:
            count = int(every.sizes[number])
            error = first.error if count == 1 else f"none of its {count} images can be read: {first.error}"
            found = replace(first, error=error, pictures=0)
        width = None if found.value is None else half_width_for(model, found.pictures)
        answers.append(replace(found, source=name, half_width=width))
    return answers


def _of_read(
    predictions: Sequence[Prediction], numbers: np.ndarray, order_temperature: float | None
) -> list[tuple[int, Prediction]]:
    """Number and prediction of each group of which there are images."""
    if not predictions:
        return []
    present, firsts, inverse = np.unique(numbers, return_index=True, return_inverse=True)
    groups = Groups(inverse, firsts, tuple(map(str, present.tolist())))
    example = predictions[0]
    task: Task = "regression" if example.value is not None else "multilabel" if example.thresholds else "classification"
    answers = np.stack([prediction.answer for prediction in predictions])
    answers = pool_answers(answers, groups, task, order_temperature=order_temperature)
    p_values = distances = None
    if all(prediction.ood_p_value is not None for prediction in predictions):
        p_values = pool_p_values(np.array([prediction.ood_p_value for prediction in predictions]), groups)
    if all(prediction.ood_distance is not None for prediction in predictions):
        distances = np.zeros(len(groups))
        np.maximum.at(distances, groups.numbers, np.array([prediction.ood_distance for prediction in predictions]))
    return [
        (
            number,
            replace(
                example,
                probabilities=example.probabilities if task == "regression" else answers[row],
                value=float(answers[row, 0]) if task == "regression" else None,
                ood_p_value=None if p_values is None else float(p_values[row]),
                ood_distance=None if distances is None else float(distances[row]),
                pictures=int(groups.sizes[row]),
            ),
        )
        for row, number in enumerate(present.tolist())
    ]
