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
    assert parity.accuracy_difference == pytest.approx(-0.25)
    assert len(parity.exceeded_limits) == 3
    assert compare_predictions(names, labels, model, model, "fp32").exceeded_limits == []
