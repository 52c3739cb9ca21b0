"""Each image is predicted by a head that was fitted without it."""

from __future__ import annotations

import numpy as np
import torch

from regraft.training.callbacks import NullReporter
from regraft.training.cross_val_predict import cross_val_predict


def blobs() -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Features that separate three classes, their labels, and folds whose numbers have gaps."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 20)
    features = torch.from_numpy(rng.normal(3 * np.eye(3)[labels], 1)).float()
    return features, labels, np.arange(60) % 4 * 10


def test_probabilities_are_right_for_separable_classes() -> None:
    features, labels, fold = blobs()
    given = features.clone()
    predicted = cross_val_predict(features, labels, fold, NullReporter(), classes=4)
    assert predicted.shape == (60, 4)
    assert np.allclose(predicted.sum(axis=1), 1)
    assert (predicted.argmax(axis=1) == labels).mean() > 0.85
    assert torch.equal(features, given)


def test_progress_ends_with_its_total() -> None:
    class Reporter(NullReporter):
        seen: list[tuple[int, int]] = []  # noqa: RUF012

        def on_progress(self, name: str, done: int, total: int, detail: str = "") -> None:
            self.seen.append((done, total))

    features, labels, fold = blobs()
    cross_val_predict(features, labels, fold, reporter := Reporter(), classes=3)
    done = [done for done, _ in reporter.seen]
    assert done == sorted(done)
    assert reporter.seen[-1][0] == reporter.seen[-1][1]


def test_balanced_weights_raise_the_recall_of_a_rare_class():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [180, 20])
    features = torch.from_numpy(rng.normal(labels[:, None] * 1.2, 1, (200, 2))).float()
    fold = np.arange(200) % 5
    hits = [
        (
            cross_val_predict(features, labels, fold, NullReporter(), classes=2, class_weights=weights).argmax(1)[
                labels == 1
            ]
            == 1
        ).sum()
        for weights in ("none", "balanced")
    ]
    assert hits[1] > hits[0]
