"""Changes of classes are read, checked and applied to predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from regraft.errors import UsageError
from regraft.evaluation.predictions import Predictions
from regraft.runs.class_changes import ClassChanges

CLASSES = ("a", "b", "b=c", "d")


def test_texts_are_read_back() -> None:
    changes = ClassChanges.of(CLASSES, {"a": "z"}, {"e": ["b", "b=c"]}, [])
    assert changes.after == ("d", "e", "z")
    assert changes.describe() == "a is now z; b and b=c are one class, e."
    assert ClassChanges.parse(changes.texts(), CLASSES) == changes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (({}, {}, []), "Nothing changes"),
        (({"a": "a"}, {}, []), "Nothing changes"),
        (({"x": "y"}, {}, []), "no class 'x'"),
        (({"a": "b"}, {}, []), "a and b would both be b"),
        (({"a": ""}, {}, []), "is empty"),
        (({"a": "x"}, {}, ["a"]), "one change of a class"),
        (({}, {"x": ["a"]}, []), "two classes or more"),
        (({}, {}, ["a", "b", "d"]), "left would be b=c"),
    ],
)
def test_changes_that_cannot_be_are_refused(arguments: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ClassChanges.of(CLASSES, *arguments)


def test_an_unknown_class_in_a_setting_is_refused() -> None:
    with pytest.raises(UsageError, match="expected old=new"):
        ClassChanges.parse(["x=y"], CLASSES)


def test_probabilities_are_added_and_divided() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4), 20)
    predictions = Predictions.from_arrays(rng.integers(0, 4, 20), probabilities, CLASSES)
    changes = ClassChanges.of(CLASSES, {}, {"b": ["b", "d"]}, ["a"])
    after = changes.of_predictions(predictions)
    kept = predictions.labels != 0
    assert after.classes == ("b", "b=c")
    assert after.ids == tuple(np.array(predictions.ids)[kept])
    rest = 1 - probabilities[kept, 0]
    assert after.probabilities[:, 0] == pytest.approx((probabilities[kept, 1] + probabilities[kept, 3]) / rest)
    assert (after.labels == (predictions.labels[kept] == 2)).all()


def test_an_image_that_was_wholly_of_a_dropped_class_says_nothing() -> None:
    predictions = Predictions.from_arrays([1], [[1.0, 0.0, 0.0, 0.0]], CLASSES)
    after = ClassChanges.of(CLASSES, {}, {}, ["a"]).of_predictions(predictions)
    assert after.probabilities == pytest.approx(np.full((1, 3), 1 / 3))
