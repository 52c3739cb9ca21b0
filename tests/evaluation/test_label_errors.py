from __future__ import annotations

import numpy as np

from regraft.evaluation.label_errors import find_label_errors


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
