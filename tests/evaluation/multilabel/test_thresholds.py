"""Thresholds and calibration of each class, fitted to validation images."""

from __future__ import annotations

import numpy as np
import pytest

from regraft.evaluation.multilabel.calibration import fit_slopes_and_offsets
from regraft.evaluation.multilabel.thresholds import thresholds_for_f1, thresholds_for_precision


def f1(truth: np.ndarray, said: np.ndarray) -> float:
    return float(2 * (truth & said).sum() / max(1, truth.sum() + said.sum()))


def test_no_other_threshold_has_a_better_f1() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        truth = rng.random((25, 1)) < 0.4
        probabilities = np.clip(0.4 * truth + rng.random((25, 1)) * 0.7, 0, 1).round(2)
        threshold = thresholds_for_f1(truth, probabilities)[0]
        best = max(f1(truth, probabilities >= limit) for limit in np.linspace(0, 1, 401))
        assert f1(truth, probabilities >= threshold) == pytest.approx(best)


def test_a_class_that_no_image_has_keeps_the_middle() -> None:
    assert thresholds_for_f1(np.zeros((5, 1), bool), np.linspace(0, 1, 5)[:, None]).tolist() == [0.5]
    assert thresholds_for_f1(np.zeros((0, 2), bool), np.zeros((0, 2))).tolist() == [0.5, 0.5]


def test_the_wanted_precision_is_reached_with_the_lowest_threshold() -> None:
    truth = np.array([[1], [1], [0], [1], [0]], bool)
    probabilities = np.array([[0.9], [0.8], [0.7], [0.6], [0.1]])
    assert thresholds_for_precision(truth, probabilities, 1.0)[0] == pytest.approx(0.75)
    assert thresholds_for_precision(truth, probabilities, 0.75)[0] == pytest.approx(0.35)
    assert thresholds_for_precision(~truth, probabilities, 1.0)[0] > 1


def test_calibration_finds_slope_and_offset() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (4000, 2))
    true = 1 / (1 + np.exp(-(np.array([0.5, 2.0]) * logits + np.array([1.0, -1.0]))))
    slopes, offsets = fit_slopes_and_offsets(rng.random(true.shape) < true, logits)
    assert slopes == pytest.approx([0.5, 2.0], rel=0.15)
    assert offsets == pytest.approx([1.0, -1.0], abs=0.2)


def test_few_images_change_little() -> None:
    slopes, offsets = fit_slopes_and_offsets(np.array([[True]]), np.array([[3.0]]))
    assert slopes == pytest.approx([1.0], abs=0.2)
    assert offsets == pytest.approx([0.0], abs=0.2)
    assert fit_slopes_and_offsets(np.zeros((0, 1), bool), np.zeros((0, 1)))[0].tolist() == [1.0]


def test_calibrated_probabilities_choose_better_thresholds_than_few_labels() -> None:
    rng = np.random.default_rng(0)
    scores = {1.0: 0.0, 0.25: 0.0}
    for _ in range(40):
        logits = rng.normal(-1.5, 1.5, (1100, 1))
        probabilities = 1 / (1 + np.exp(-logits))
        truth = rng.random(logits.shape) < probabilities
        for share in scores:
            (limit,) = thresholds_for_f1(truth[:100], probabilities[:100], label_share=share)
            said = probabilities[100:] >= limit
            scores[share] += 2 * (said & truth[100:]).sum() / (said.sum() + truth[100:].sum()) / 40
    assert scores[0.25] > scores[1.0] + 0.01
