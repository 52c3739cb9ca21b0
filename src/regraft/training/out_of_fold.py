"""What heads on frozen features say about images that they were not trained on.

Enters: a classifier with pretrained weights, and images. Leaves: out-of-fold probabilities of every image; the prefix
runs once, and each fold solves a head.
"""

from __future__ import annotations

import numpy as np
import torch

from regraft.data.dataset import Dataset
from regraft.data.pixels import load_pixels
from regraft.models.classifier import Classifier
from regraft.store import Store
from regraft.training.engine import choose_engine, make_engine
from regraft.training.hardware import choose_device, choose_precision
from regraft.training.objective import Objective, balanced_weights
from regraft.training.prefix import read_features, run_prefix
from regraft.training.progress import Listener
from regraft.training.solver import STRENGTHS, solve_path


def frozen_features(model: Classifier, dataset: Dataset, store: Store, listener: Listener) -> torch.Tensor:
    """What the head would read of the plain images, float32 (N, F).

    Args:
        model: With the weights that are to be used; on the device that `auto` means.
        dataset: N samples.
        store: Where pixels and activations are found and kept.
        listener: Told how far the work is.
    """
    device = choose_device("auto")
    precision = choose_precision("auto", device)
    model.to(device).eval()
    pixels = load_pixels(
        dataset,
        model.preprocessing,
        store,
        progress=lambda done, total: listener.work("decode", done, total, "images"),
    )
    end = len(model.stages)
    name, _ = choose_engine("auto", model, end, precision, rows=len(dataset), store=store)
    engine = make_engine(name, model, end, precision)
    activations = run_prefix(model, dataset, pixels, engine, store, listener=listener, name="backbone")
    return read_features(model, activations, 1, precision, listener)[0]


def out_of_fold(
    features: torch.Tensor,
    labels: np.ndarray,
    fold: np.ndarray,
    listener: Listener,
    *,
    classes: int,
    balanced: bool = False,
) -> np.ndarray:
    """Probabilities of every image by a head that was solved without its fold.

    The strength of a fold's head is the one with the least loss over the other folds, so that nothing that judges an
    image was chosen by it.

    Args:
        features: (N, F).
        labels: int64 (N,), below `classes`.
        fold: Number of the fold of each image, (N,).
        listener: Told how far the work is.
        classes: C.
        balanced: Whether each class weighs the same while a head is solved, however many images it has.

    Returns:
        float64 (N, C).
    """
    targets = torch.from_numpy(labels)
    numbers = np.unique(fold)
    logits = torch.zeros(len(STRENGTHS), len(labels), classes)
    losses = torch.full((len(numbers), len(STRENGTHS)), float("inf"), dtype=torch.float64)
    for row, number in enumerate(numbers):
        held = torch.from_numpy(fold == number)
        weights = balanced_weights(labels[fold != number], classes, balanced=balanced)
        objective = Objective("cross_entropy", 0.0, weights)
        for place, solution in enumerate(solve_path(features[~held], targets[~held], objective, consume=True)):
            logits[place, held] = features[held] @ solution.weight.T + solution.bias
            each = torch.nn.functional.cross_entropy(logits[place, held].double(), targets[held], reduction="sum")
            losses[row, place] = each
            listener.work("head", row * len(STRENGTHS) + place + 1, losses.numel(), f"fold {row + 1}")
            if place >= 2 and losses[row, place] > losses[row, place - 1] > losses[row, place - 2]:
                break
        listener.work("head", (row + 1) * len(STRENGTHS), losses.numel(), f"fold {row + 1}")
    probabilities = torch.empty(len(labels), classes, dtype=torch.float64)
    for row, number in enumerate(numbers):
        held, others = torch.from_numpy(fold == number), torch.arange(len(numbers)) != row
        best = int(torch.where(losses[row].isfinite(), losses[others].sum(dim=0), torch.inf).argmin())
        probabilities[held] = logits[best, held].double().softmax(dim=1)
    return probabilities.numpy()
