"""Labels spread over the graph of nearest neighbors as the closed form says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import make_moons
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from regraft.training import label_propagation
from regraft.training.label_propagation import Neighbors, certainty, nearest_neighbors, propagate


def start(labels: np.ndarray, total: int, classes: int) -> np.ndarray:
    """One-hot rows of labeled images, and zeros."""
    rows = np.zeros((total, classes))
    rows[np.arange(len(labels)), labels] = 1
    return rows


FEATURES = torch.randn(200, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 7) + 5


def test_neighbors_are_those_of_an_independent_search(monkeypatch: pytest.MonkeyPatch) -> None:
    found = nearest_neighbors(FEATURES, 7)
    standardized = StandardScaler().fit_transform(FEATURES.numpy())
    distances, images = NearestNeighbors(n_neighbors=8, metric="cosine").fit(standardized).kneighbors(standardized)
    np.testing.assert_array_equal(found.images, images[:, 1:])
    np.testing.assert_allclose(found.similarities, 1 - distances[:, 1:], atol=1e-5)
    monkeypatch.setattr(label_propagation, "_BLOCK_BYTES", 4 * 200 * 9)  # nine rows at a time
    np.testing.assert_array_equal(nearest_neighbors(FEATURES, 7).images, found.images)


def test_neighbors_of_few_or_constant_images() -> None:
    assert nearest_neighbors(FEATURES[:3], 7).images.shape == (3, 2)
    assert np.isfinite(nearest_neighbors(torch.ones(5, 4), 2).similarities).all()


def test_a_part_of_the_images_has_neighbors_in_the_part_alone() -> None:
    part = np.flatnonzero(np.arange(200) % 4 != 0)
    exact = nearest_neighbors(FEATURES, 60).among(part, 5)
    mean, deviation = FEATURES.mean(dim=0), FEATURES.std(dim=0, correction=0)  # as all images are standardized
    units = torch.nn.functional.normalize((FEATURES - mean) / deviation, dim=1)[torch.from_numpy(part)]
    similarity = units @ units.T - 2 * torch.eye(len(part))
    np.testing.assert_array_equal(exact.images, similarity.topk(5).indices.numpy())
    few = nearest_neighbors(FEATURES, 5).among(part, 5)
    assert (few.images == -1).any()  # some of the five are not in the part
    assert (few.among(np.arange(100), 5).images < 100).all()  # -1 stays -1, and is not the last image


def test_scores_are_the_closed_form() -> None:
    labels = np.array([0, 1, 2, 0, 1, 2, 0, 0])
    neighbors = nearest_neighbors(FEATURES, 5)
    weights = np.zeros((200, 200))
    for i in range(200):
        weights[i, neighbors.images[i]] = np.maximum(neighbors.similarities[i], 0).astype(float) ** 3
    weights += weights.T
    scale = np.diag(weights.sum(axis=1) ** -0.5)
    known = start(labels, 200, 3)
    known[8:] = np.random.default_rng(0).dirichlet(np.ones(3), 192)
    for rows in (start(labels, 200, 3), known):
        scores = np.linalg.solve(np.eye(200) - 0.9 * scale @ weights @ scale, rows)[8:]
        scores *= np.bincount(labels) / 8 / scores.sum(axis=0)  # class mass
        expected = scores / scores.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(propagate(neighbors, rows, 8, alpha=0.9), expected, atol=1e-3)


def test_each_of_several_labels_is_spread_as_one_of_two_classes() -> None:
    neighbors, known = nearest_neighbors(FEATURES, 5), np.random.default_rng(0).random((200, 3))
    known[:8] = known[:8] > 0.5
    known[:, 2] = 0  # which no image has
    found = propagate(neighbors, known, 8, alpha=0.8, several=True)
    for index in range(3):
        both = np.stack([known[:, index], 1 - known[:, index]], axis=1)
        np.testing.assert_allclose(found[:, index], propagate(neighbors, both, 8, alpha=0.8)[:, 0], atol=1e-3)
    halves = np.array([[1, 0], [0.5, 0.5], [1, 1]])
    np.testing.assert_allclose(certainty(halves, several=True), [1, 0, 1], atol=1e-6)


def test_labels_follow_the_shape_of_the_data() -> None:
    points, classes = make_moons(400, noise=0.06, random_state=0)
    order = np.concatenate([np.flatnonzero(classes == 0)[:2], np.flatnonzero(classes == 1)[:2]])
    order = np.concatenate([order, np.setdiff1d(np.arange(400), order)])
    # The cosine of these features falls with the distance of the points.
    waves = np.random.default_rng(0).normal(0, 4, (2, 300))
    features = torch.from_numpy(np.cos(points[order] @ waves + np.linspace(0, 6.28, 300))).float()
    found = propagate(nearest_neighbors(features, 8), start(classes[order][:4], 400, 2), 4, alpha=0.99)
    assert (found.argmax(axis=1) == classes[order][4:]).mean() > 0.97


def test_an_image_that_no_label_reaches_has_the_shares_of_the_labels() -> None:
    alone = Neighbors(np.array([[1], [0], [3], [2]]), np.ones((4, 1), np.float32))
    found = propagate(alone, start(np.array([0, 0]), 4, 3), 2, alpha=0.9)
    np.testing.assert_array_equal(found, [[1, 0, 0], [1, 0, 0]])
    two = Neighbors(np.array([[2], [-1], [0], [-1]]), np.array([[1], [0], [1], [0]], np.float32))
    spread = propagate(two, start(np.array([0, 1]), 4, 2), 2, alpha=0.9)
    np.testing.assert_allclose(spread, [[1, 0], [0.5, 0.5]])


def test_certainty_is_1_for_one_class_and_0_for_all_alike() -> None:
    np.testing.assert_allclose(certainty(np.array([[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]])), [1, 0], atol=1e-6)
