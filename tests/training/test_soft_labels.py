"""Images without labels are used where cross-validation on the labeled ones says so, and no held-out image helps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from regraft.training import cross_val_predict
from regraft.training import soft_labels as module
from regraft.training.callbacks import NullReporter
from regraft.training.cross_val_predict import cross_val_predict_with_unlabeled
from regraft.training.label_propagation import Neighbors, nearest_neighbors
from regraft.training.losses import Objective
from regraft.training.soft_labels import (
    CANDIDATES,
    Decision,
    decide,
    estimate_seconds,
    neighbors_needed,
    soft_labels,
)

CLASSES, OBJECTIVE = 4, Objective("cross_entropy", 0.0, torch.ones(4))


def clusters(labeled: int, others: int, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Each class has the four corners of its own square in a plane of many: few labels do not show all corners."""
    rng = np.random.default_rng(seed)
    corners = rng.normal(0, 1, (CLASSES, 4, 40))
    classes = np.arange(labeled + others) % CLASSES
    points = corners[classes, rng.integers(4, size=len(classes))] + rng.normal(0, 0.45, (len(classes), 40))
    return torch.from_numpy(points).float(), classes


def compare(features: torch.Tensor, labels: np.ndarray) -> Decision:
    return decide(nearest_neighbors(features, neighbors_needed()), features, labels, OBJECTIVE, seed=0)


def test_images_in_the_same_clusters_are_used() -> None:
    features, classes = clusters(60, 400)
    decision = compare(features, classes[:60])
    assert decision.used
    assert decision.accuracy_with > decision.accuracy_without
    assert decision.loss_decrease > decision.loss_error > 0


def test_images_of_something_else_are_not() -> None:
    features, classes = clusters(60, 400)
    features[60:] = torch.randn(400, 40, generator=torch.Generator().manual_seed(1))
    assert not compare(features, classes[:60]).used


def test_several_labels_an_image_are_decided_alike() -> None:
    features, classes = clusters(60, 400)
    has = np.stack([classes % 2 == 0, classes < 2, classes == 3], axis=1).astype(np.float32)
    objective = Objective.of_labels(has[:60], ["even", "low", "last"])

    def compare(features: torch.Tensor) -> Decision:
        return decide(nearest_neighbors(features, neighbors_needed()), features, has[:60], objective, seed=0)

    decision = compare(features)
    assert decision.used
    assert decision.accuracy_with > decision.accuracy_without
    soft = soft_labels(nearest_neighbors(features, 10), features, has[:60], objective, CANDIDATES[0], 0.1, 1.0)
    assert ((soft.probabilities > 0.5) == (has[60:] > 0.5)).mean() > 0.8
    targets, weights = soft.after(has[:60])
    np.testing.assert_array_equal(targets[:60], has[:60])
    assert np.isclose(weights[60:].mean(), CANDIDATES[0].weight, atol=1e-5)
    features[60:] = torch.randn(400, 40, generator=torch.Generator().manual_seed(1))
    assert not compare(features).used


def test_a_decision_is_the_same_again() -> None:
    features, classes = clusters(40, 100)
    assert compare(features, classes[:40]) == compare(features, classes[:40])


def test_no_held_out_image_is_in_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    features, classes = clusters(40, 100)
    graphs: list[int] = []

    def spy(neighbors: Neighbors, features: torch.Tensor, labels: np.ndarray, *rest: object) -> module.SoftLabels:
        graphs.append(len(neighbors.images) - len(labels))
        assert neighbors.images.max() < len(neighbors.images) == len(features)
        assert len(labels) == 32  # of 40, a fold has 8
        return soft_labels(neighbors, features, labels, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "soft_labels", spy)
    compare(features, classes[:40])
    assert graphs == [100] * 5 * len(CANDIDATES)


def test_of_many_images_a_part_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    features, classes = clusters(40, 600)
    neighbors: list[np.ndarray] = []

    def spy(graph: Neighbors, features: torch.Tensor, labels: np.ndarray, *rest: object) -> module.SoftLabels:
        assert len(graph.images) - len(labels) == 50
        neighbors.append((graph.images >= 0).sum(axis=1))
        return soft_labels(graph, features, labels, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "MAX_SEARCH_IMAGES", 50)
    monkeypatch.setattr(module, "soft_labels", spy)
    assert compare(features, classes[:40]) == compare(features, classes[:40])
    assert np.concatenate(neighbors).min() == CANDIDATES[0].neighbors  # of the images that were drawn, not of all


def test_an_estimate_grows_with_the_work() -> None:
    seconds = [estimate_seconds(n, m, 100, 1e6) for n, m in ((100, 0), (200, 0), (200, 3000), (200, 29000))]
    assert seconds == sorted(seconds)
    fits = len(np.unique(np.arange(40) % 5)) * len(CANDIDATES)
    assert seconds[2] - seconds[1] >= fits * 3000 * 100 / 1e6  # every fold fits each candidate on all of them


def test_weights_follow_certainty_and_have_the_wanted_mean() -> None:
    features, classes = clusters(40, 100)
    soft = soft_labels(nearest_neighbors(features, 10), features, classes[:40], OBJECTIVE, CANDIDATES[0], 0.1, 1.0)
    assert np.isclose(soft.weights.mean(), CANDIDATES[0].weight, atol=1e-5)
    largest = soft.probabilities.max(axis=1)
    assert soft.weights[largest.argmax()] > soft.weights[largest.argmin()]
    targets, weights = soft.after(classes[:40])
    assert (targets.shape, weights.shape) == ((140, CLASSES), (140,))
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(140))
    assert weights[:40].tolist() == [1.0] * 40


def test_cross_validation_answers_each_image_without_its_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        cross_val_predict, "decide", lambda *args, **options: replace(decide(*args, **options), used=True)
    )
    features, classes = clusters(60, 400)
    fold, plain = np.arange(60) % 3, np.full((60, CLASSES), 0.25)
    results = []
    for labels in (classes[:60], np.where(fold == 0, (classes[:60] + 1) % CLASSES, classes[:60])):
        probabilities, used = cross_val_predict_with_unlabeled(
            features[:60], features[60:], labels, fold, plain, NullReporter()
        )
        assert used == 3
        results.append(probabilities[fold == 0])
    np.testing.assert_allclose(results[0], results[1], atol=1e-12)  # other labels in a fold change nothing there
    assert (results[0].argmax(axis=1) == classes[:60][fold == 0]).mean() > 0.6
