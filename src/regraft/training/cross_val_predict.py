"""Predict every image by a linear head that was trained without it, on features that the prefix computes once."""

from __future__ import annotations

import numpy as np
import torch

from regraft.cache import Cache
from regraft.data.dataset import Dataset
from regraft.data.pixel_cache import load_pixels
from regraft.models.classifier import Classifier
from regraft.training.callbacks import ProgressReporter
from regraft.training.device import choose_device, choose_precision
from regraft.training.feature_cache import extract_features, run_prefix
from regraft.training.linear_head import L2_VALUES, fit_path
from regraft.training.losses import Objective, weights_of_classes
from regraft.training.options import ClassWeights
from regraft.training.prefix_backend import choose_backend, make_backend


def frozen_features(model: Classifier, dataset: Dataset, cache: Cache, reporter: ProgressReporter) -> torch.Tensor:
    """Inputs of the head for the plain images, float32 (N, F); the model moves to the device that `auto` chooses."""
    device = choose_device("auto")
    precision = choose_precision("auto", device)
    model.to(device).eval()
    pixels = load_pixels(
        dataset,
        model.preprocessing.for_white(dataset.white),
        cache,
        progress=lambda done, total: reporter.on_progress("decode", done, total, "images"),
    )
    end = len(model.stages)
    name, _ = choose_backend("auto", model, end, precision, rows=len(dataset), cache=cache)
    backend = make_backend(name, model, end, precision)
    activations = run_prefix(model, dataset, pixels, backend, cache, reporter=reporter, name="backbone")
    return extract_features(model, activations, 1, precision, reporter)[0]


def cross_val_predict(
    features: torch.Tensor,
    labels: np.ndarray,
    fold: np.ndarray,
    reporter: ProgressReporter,
    *,
    classes: int,
    class_weights: ClassWeights = "none",
) -> np.ndarray:
    """Predict each image by a head that was fitted without its fold: probabilities, float64 (N, C).

    The L2 strength of a fold's head is the one with the lowest loss over the images of the other folds. Inputs:
    features (N, F), labels int64 (N,) below `classes`, and the fold number of each image (N,). `class_weights` are
    as in `TrainingOptions`, by the indices of the classes.
    """
    targets = torch.from_numpy(labels)
    numbers = np.unique(fold)
    logits = torch.zeros(len(L2_VALUES), len(labels), classes)
    losses = torch.full((len(numbers), len(L2_VALUES)), float("inf"), dtype=torch.float64)
    for row, number in enumerate(numbers):
        outside = torch.from_numpy(fold == number)
        weights = weights_of_classes(class_weights, labels[fold != number], [str(i) for i in range(classes)])
        objective = Objective("cross_entropy", 0.0, weights)
        for step, head in enumerate(fit_path(features[~outside], targets[~outside], objective, consume=True)):
            logits[step, outside] = features[outside] @ head.weight.T + head.bias
            losses[row, step] = torch.nn.functional.cross_entropy(
                logits[step, outside].double(), targets[outside], reduction="sum"
            )
            reporter.on_progress("head", row * len(L2_VALUES) + step + 1, losses.numel(), f"fold {row + 1}")
            if step >= 2 and losses[row, step] > losses[row, step - 1] > losses[row, step - 2]:
                break
        reporter.on_progress("head", (row + 1) * len(L2_VALUES), losses.numel(), f"fold {row + 1}")
    probabilities = torch.empty(len(labels), classes, dtype=torch.float64)
    for row, number in enumerate(numbers):
        outside, others = torch.from_numpy(fold == number), torch.arange(len(numbers)) != row
        best = int(torch.where(losses[row].isfinite(), losses[others].sum(dim=0), torch.inf).argmin())
        probabilities[outside] = logits[best, outside].double().softmax(dim=1)
    return probabilities.numpy()
