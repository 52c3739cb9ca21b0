"""Predict pictures and keep what a comparison needs: answers, distances and what the head reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from regraft.data.decode import MAX_PIXELS, ImageSource
from regraft.evaluation.drift.observations import Observations
from regraft.models.classifier import Classifier
from regraft.models.inference import predict_images
from regraft.training.callbacks import ProgressReporter


def observe(
    model: Classifier,
    sources: Iterable[ImageSource],
    names: Sequence[Any],
    reporter: ProgressReporter,
    what: str,
    *,
    max_pixels: int = MAX_PIXELS,
) -> tuple[Observations, list[tuple[str, str]]]:
    """Predict pictures whose names are given, as many; also returns names and reasons of those that cannot be read."""
    answers: list[np.ndarray] = []
    distances: list[float] = []
    read: list[str] = []
    unreadable: list[tuple[str, str]] = []
    with _inputs_of_detector(model) as features:
        for number, prediction in enumerate(predict_images(model, sources, max_pixels=max_pixels)):
            if prediction.error is not None:
                unreadable.append((str(names[number]), prediction.error))
            else:
                read.append(str(names[number]))
                answers.append(prediction.answer)
                distances.append(np.nan if prediction.ood_distance is None else prediction.ood_distance)
            reporter.on_progress(what, number + 1, len(names), "images")
    observed = Observations.of_answers(
        model.task, model.classes, np.array(answers).reshape(len(answers), len(model.classes)),
        np.array(model.thresholds) if model.thresholds else None,
    )  # fmt: skip
    has_detector = model.ood is not None
    return replace(
        observed, names=tuple(read), distances=np.array(distances) if has_detector else None,
        features=torch.cat(features).numpy() if features else None,
    ), unreadable  # fmt: skip


@contextmanager
def _inputs_of_detector(model: Classifier) -> Iterator[list[torch.Tensor]]:
    """A list that gets the features, float32 (n, F), of each batch that the model predicts meanwhile, in order."""
    found: list[torch.Tensor] = []
    if model.ood is None:
        yield found
        return

    def keep(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        found.append(inputs[0].detach().float().cpu().clone())

    handle = model.ood.register_forward_pre_hook(keep)
    try:
        yield found
    finally:
        handle.remove()
