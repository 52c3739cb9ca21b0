from __future__ import annotations

import numpy as np

from regraft.models.inference import Prediction
from regraft.models.rejection import RejectionPolicy

PREDICTION = Prediction("a.png", ("ant", "bee", "cat"), np.array([0.1, 0.7, 0.2]), ood_p_value=0.04)


def test_each_threshold_adds_its_column() -> None:
    assert RejectionPolicy().columns == []
    assert RejectionPolicy().of(PREDICTION) == {}
    policy = RejectionPolicy(min_confidence=0.8, min_probability=0.2, ood_threshold=0.01)
    assert policy.columns == ["out_of_distribution", "accepted", "prediction_set"]
    assert policy.of(PREDICTION) == {
        "out_of_distribution": False,
        "accepted": False,
        "prediction_set": ["bee", "cat"],
    }


def test_thresholds_are_inclusive() -> None:
    policy = RejectionPolicy(min_confidence=0.7, min_probability=0.7, ood_threshold=0.04)
    assert policy.of(PREDICTION) == {"out_of_distribution": True, "accepted": True, "prediction_set": ["bee"]}


def test_an_out_of_distribution_image_has_no_label() -> None:
    assert RejectionPolicy(ood_threshold=0.01).label(PREDICTION) == "bee"
    policy = RejectionPolicy(ood_threshold=0.05)
    assert policy.label(PREDICTION) is None
    assert policy.to_json(PREDICTION, 2) == {
        "label": None,
        "confidence": 0.7,
        "ood_p_value": 0.04,
        "out_of_distribution": True,
        "top": [{"label": "bee", "probability": 0.7}, {"label": "cat", "probability": 0.2}],
    }


def test_an_unreadable_image_has_an_error_only() -> None:
    policy = RejectionPolicy(0.5, 0.5, 0.5)
    broken = Prediction("b.png", ("ant", "bee"), np.empty(0), "not an image")
    assert policy.of(broken) == {}
    assert policy.to_json(broken, 2) == {"error": "not an image"}
