"""Likely wrong and missing labels of images that may have any number."""

from __future__ import annotations

import numpy as np

from regraft.evaluation.multilabel.label_errors import find_label_doubts


def labels(count: int = 300, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and probabilities of a good model of them, which is calibrated."""
    rng = np.random.default_rng(0)
    probabilities = rng.beta(0.15, 0.35, (count, classes))
    return rng.random((count, classes)) < probabilities, probabilities


def test_planted_errors_are_found_in_both_directions() -> None:
    right, probabilities = labels()
    rng = np.random.default_rng(1)
    planted = rng.random(right.shape) < 0.08
    doubts = find_label_doubts(right ^ planted, probabilities)
    found = {(doubt.index, doubt.column) for doubt in doubts}
    assert len(found) == len(doubts)
    wrong = set(zip(*map(np.ndarray.tolist, np.nonzero(planted)), strict=True))
    assert len(found & wrong) > len(wrong) / 2
    assert len(found & wrong) > 0.7 * len(found)
    assert {doubt.is_labeled for doubt in doubts} == {True, False}
    certainties = [doubt.certainty for doubt in doubts]
    assert certainties == sorted(certainties, reverse=True)
    assert min(certainties) > 0.5


def test_right_labels_are_hardly_accused() -> None:
    right, probabilities = labels()
    assert len(find_label_doubts(right, probabilities)) <= 3  # of 1,500


def test_only_classes_that_are_asked_about_and_tested() -> None:
    right, probabilities = labels()
    wrong = right ^ (np.random.default_rng(1).random(right.shape) < 0.08)
    assert {doubt.column for doubt in find_label_doubts(wrong, probabilities, [1, 3])} <= {1, 3}
    wrong[:, 1] = False
    assert not find_label_doubts(wrong, probabilities, [1])
