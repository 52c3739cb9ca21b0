"""The parity gate on given probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from regraft.exporting.parity import compare_predictions


def test_differences_are_counted_and_named() -> None:
    model = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.5, 0.5]])
    export = model + np.array([[0.0, 0.0], [-0.2, 0.2], [5e-5, -5e-5], [np.nan, 0.0]])
    names, labels = ["a", "b", "c", "d"], np.array([0, 0, 1, 0])
    parity = compare_predictions(names, labels, model, export.astype(np.float32), "fp32")
    assert parity.agreement == 0.75
    assert parity.differing == ("d", "b")
    assert parity.score_difference == pytest.approx(-0.25)
    assert len(parity.exceeded_limits) == 3
    assert compare_predictions(names, labels, model, model, "fp32").exceeded_limits == []


def test_labels_may_differ_only_beside_their_thresholds() -> None:
    thresholds, truth = (0.5, 0.3), np.array([[True, False], [False, False], [True, True]])
    model = np.array([[0.50001, 0.1], [0.2, 0.29998], [0.9, 0.8]])
    export = np.array([[0.49999, 0.1], [0.2, 0.30001], [0.9, 0.8]], np.float32)
    names = ["a", "b", "c"]
    parity = compare_predictions(names, truth, model, export, "fp32", thresholds=thresholds)
    assert (parity.agreement, parity.differing, parity.exceeded_limits) == (1.0, (), [])
    assert parity.score == parity.model_score == 1.0
    export[2] = 0.9, 0.2
    parity = compare_predictions(names, truth, model, export, "int8", thresholds=thresholds)
    assert parity.agreement == pytest.approx(5 / 6)
    assert parity.differing == ("c",)
    assert (parity.model_score, parity.score) == (1.0, pytest.approx(4 / 5))
    assert parity.score_interval[0] < parity.score_difference < 0
    (reason,) = parity.exceeded_limits
    assert reason.startswith("micro-F1 is 20.00 points lower")
    assert set(parity.to_json()) >= {"micro_f1", "model_micro_f1", "micro_f1_difference", "micro_f1_interval"}


def test_exports_of_wrong_labels_are_refused() -> None:
    model = np.array([[0.7, 0.1], [0.2, 0.6]])
    truth = model >= 0.5
    parity = compare_predictions(["a", "b"], truth, model, 1 - model, "fp16", thresholds=(0.5, 0.5))
    assert parity.agreement == 0
    assert len(parity.exceeded_limits) == 3
