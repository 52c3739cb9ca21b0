from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from regraft.evaluation.majority import compare_with_majority
from regraft.evaluation.metrics import evaluate
from regraft.evaluation.predictions import Predictions


@pytest.mark.parametrize(
    ("confusion", "better"),
    [
        ([[5, 0], [0, 5]], True),
        ([[3, 0], [0, 3]], False),  # three right answers more are chance
        ([[10, 0], [5, 0]], False),  # it always predicts the most frequent class
        ([[8, 4], [6, 2]], False),
        ([[20, 10], [2, 28]], True),
        ([[7, 0], [0, 0]], False),  # one class only
    ],
)
def test_a_model_is_better_if_it_is_clearly_more_often_right_than_the_most_frequent_class(
    confusion: list[list[int]], better: bool
) -> None:
    found = compare_with_majority(np.array(confusion))
    assert found.is_better == better
    assert found.objection(["cat", "dog"])[1] == ("" if better else "cat")


def test_the_p_value_is_that_of_the_sign_test_on_the_images_that_one_of_the_two_gets_right() -> None:
    found = compare_with_majority(np.array([[20, 5, 5], [2, 10, 3], [1, 1, 8]]))
    assert found.p == pytest.approx(binom.sf(18 - 1, 18 + 10, 0.5))
    assert (found.accuracy, found.majority_accuracy, found.count) == (38 / 55, 30 / 55, 55)


def test_how_many_images_would_tell() -> None:
    perfect = compare_with_majority(np.array([[3, 0], [0, 3]])).objection(["cat", "dog"])
    assert "100.0 % accuracy, beside 50.0 %, on 6 images. These are too few images to tell" in perfect[2]
    confusion = np.array([[14, 4], [4, 8]])  # 22 of 30, beside 18
    found = compare_with_majority(confusion)
    assert f"At these accuracies it takes about {found.enough} images to tell." in "".join(found.objection(["a", "b"]))
    times = found.enough / found.count
    assert compare_with_majority(np.rint(confusion * times * 1.15).astype(int)).is_better
    assert not compare_with_majority(np.rint(confusion * times * 0.75).astype(int)).is_better
    assert not compare_with_majority(np.array([[20, 0], [10, 0]])).enough  # there is no difference to be shown


def test_an_evaluation_says_so() -> None:
    guesses = evaluate(Predictions.from_arrays([0, 0, 1], [[0.9, 0.1]] * 3, ["cat", "dog"]))
    assert guesses.at_chance == (
        "The model is not clearly better than always predicting the most frequent class, “cat”: 66.7 % accuracy, "
        "beside 66.7 %, on 3 images. These are too few images to tell: even a perfect model needs at least 5 of other "
        "classes, and here is 1."
    )
    assert guesses.to_json()["majority_class"] == {"class": "cat", "accuracy": 2 / 3, "p": 1.0, "is_better": False}
    assert evaluate(Predictions.from_arrays([0, 1] * 5, [[1.0, 0.0], [0.0, 1.0]] * 5)).at_chance == ""
