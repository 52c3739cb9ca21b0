import json

import numpy as np
import pytest

from regraft.evaluation.compare_subgroups import compare_subgroups
from regraft.evaluation.metrics import Evaluation, evaluate
from regraft.evaluation.multilabel.predictions import MultilabelPredictions
from regraft.evaluation.predictions import Predictions
from regraft.evaluation.regression.predictions import RegressionPredictions
from regraft.evaluation.subgroups import Subgroups


def predictions(right: dict[str, tuple[int, int]]) -> tuple[Predictions, list[str | None]]:
    """Images of each value, so many of which are right, of so many."""
    labels, probabilities, values = [], [], list[str | None]()
    for value, (hits, count) in right.items():
        for i in range(count):
            label = i % 2
            said = label if i < hits else 1 - label
            labels.append(label)
            probabilities.append([0.9, 0.1] if said == 0 else [0.1, 0.9])
            values.append(value or None)
    return Predictions.from_arrays(labels, probabilities, ["ant", "bee"]), values


def test_a_camera_that_is_worse_is_named_and_beyond_chance() -> None:
    given, values = predictions({"A": (95, 100), "B": (60, 100), "C": (94, 100), "D": (2, 3), "": (1, 2)})
    (found,) = compare_subgroups(given, {"camera": values})
    assert found.worst is not None
    assert found.worst.value == "B"
    assert found.is_worse(found.worst)
    from scipy.stats import fisher_exact

    p = fisher_exact(((60, 40), (191, 12))).pvalue
    assert found.worst.p == pytest.approx(p)
    assert found.worst.p_adjusted == pytest.approx(4 * p)
    assert found.worst.scores["accuracy"][0] == pytest.approx(0.6)
    assert found.without_value == 2
    assert "worse than that of the others beyond chance" in found.describe()
    assert "corrected for 4 subgroups by Holm" in found.describe()
    small, without = found.cautions()
    assert "D (3)" in small
    assert "2 images have no value" in without


def test_equal_cameras_may_differ_by_chance_and_two_are_one_comparison() -> None:
    given, values = predictions({"A": (45, 50), "B": (43, 50)})
    (found,) = compare_subgroups(given, {"camera": values})
    assert found.worst is not None
    assert not found.is_worse(found.worst)
    assert found.worst.p == found.worst.p_adjusted
    assert "may differ by chance" in found.describe()


def test_one_value_is_nothing_to_compare() -> None:
    given, values = predictions({"A": (45, 50)})
    (found,) = compare_subgroups(given, {"camera": values})
    assert found.worst is None
    assert "nothing to compare" in found.describe()


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_other_tasks_are_compared_by_their_own_metric(task: str) -> None:
    rng, values = np.random.default_rng(0), ["good"] * 80 + ["bad"] * 80
    noise = np.array([0.1] * 80 + [2.0] * 80)
    if task == "regression":
        truth = rng.normal(size=160)
        given = RegressionPredictions.from_arrays(truth, truth + noise * rng.normal(size=160))
    else:
        has = rng.random((160, 3)) < 0.5
        logits = 2.0 * has - 1 + noise[:, None] * rng.normal(size=(160, 3))
        given = MultilabelPredictions.from_arrays(has, 1 / (1 + np.exp(-logits)))
    (found,) = compare_subgroups(given, {"site": values})
    assert found.metric == {"multilabel": "mAP", "regression": "mean absolute error"}[task]
    assert found.worst is not None
    assert found.worst.value == "bad"
    assert found.is_worse(found.worst)


def test_subgroups_survive_json() -> None:
    given, values = predictions({"A": (45, 50), "B": (30, 50)})
    found = compare_subgroups(given, {"camera": values})
    assert Subgroups.from_json(json.loads(json.dumps(found[0].to_json()))) == found[0]
    from dataclasses import replace

    evaluation = replace(evaluate(given), subgroups=found)
    assert Evaluation.from_json(json.loads(json.dumps(evaluation.to_json()))).subgroups == found
