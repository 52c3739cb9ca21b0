from __future__ import annotations

import numpy as np
import pytest

from regraft.evaluation.label_errors import find_label_errors, probability_of_wrong_label


def test_wrong_labels_are_found_most_likely_first() -> None:
    truth = np.arange(150) % 3
    wrong = np.flatnonzero(truth == 0)[:10]
    labels = truth.copy()
    labels[wrong] = 1
    confidence = np.random.default_rng(0).uniform(0.85, 0.95, 150)
    probabilities = np.tile((1 - confidence[:, None]) / 2, (1, 3))
    probabilities[np.arange(150), truth] = confidence
    errors = find_label_errors(labels, probabilities)
    assert errors
    assert {error.index for error in errors} <= set(wrong.tolist())
    margins = [error.given - error.probability for error in errors]
    assert margins == sorted(margins)
    for error in errors:
        assert error.suggested == 0
        assert error.probability == probabilities[error.index, 0]
        assert error.given == probabilities[error.index, 1]


def draw(accuracy: float, wrong: float, classes: int, images: int, seed: int) -> tuple[np.ndarray, ...]:
    """Labels, calibrated probabilities of a model of about this accuracy, and which labels are wrong."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(classes, 0.1), images)
    weak = rng.random(images) > accuracy
    probabilities[weak] = rng.dirichlet(np.full(classes, 0.7), weak.sum())
    truth = (rng.random((images, 1)) > probabilities.cumsum(axis=1)).sum(axis=1).clip(0, classes - 1)
    is_wrong = rng.random(images) < wrong
    labels = np.where(is_wrong, (truth + rng.integers(1, classes, images)) % classes, truth)
    return labels, probabilities, is_wrong


@pytest.mark.parametrize("seed", range(4))
def test_a_weak_model_does_not_take_its_own_mistakes_for_wrong_labels(seed: int) -> None:
    labels, probabilities, _ = draw(0.2, 0.0, 10, 167, seed)
    assert (probabilities.argmax(axis=1) == labels).mean() < 0.7
    assert len(find_label_errors(labels, probabilities)) <= 4


@pytest.mark.parametrize("seed", range(4))
def test_at_least_half_of_the_listed_labels_are_wrong(seed: int) -> None:
    labels, probabilities, is_wrong = draw(0.7, 0.1, 5, 600, seed)
    listed = [error.index for error in find_label_errors(labels, probabilities)]
    assert is_wrong[listed].mean() >= 0.5
    assert is_wrong[listed].sum() >= 0.25 * is_wrong.sum()
    chances = probability_of_wrong_label(labels, probabilities)
    assert ((chances >= 0) & (chances <= 1)).all()
    assert abs(chances.sum() - is_wrong.sum()) < 0.5 * is_wrong.sum()
