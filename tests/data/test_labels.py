"""Several labels as one text, and what they say about classes."""

from __future__ import annotations

import numpy as np
import pytest

from regraft.data.labels import classes_in, indicators, join_labels, split_labels
from regraft.data.strings import Names


@pytest.mark.parametrize(
    "labels",
    [
        (),
        ("cat",),
        ("cat", "dog"),
        ("a|b", "c"),
        ("[x]", "y"),
        ("rock, metal", "jazz"),
        (" ",),
        ('"', "\\"),
        ("é|",),
        ("{x}",),
        ("",),
    ],
)
def test_labels_and_their_text_are_the_same(labels: tuple[str, ...]) -> None:
    assert set(split_labels(join_labels(labels))) == set(labels)


def test_the_text_has_each_label_once_and_in_order() -> None:
    assert join_labels(["dog", "cat", "dog"]) == "cat|dog"
    assert join_labels(["a|b", "a"]) == '["a", "a|b"]'
    assert join_labels(["Paris, France"]) == '["Paris, France"]'  # else a table of such texts would be misread


def test_indicators_of_labels() -> None:
    labels = Names.of(["cat|dog", "", "dog", None])
    assert classes_in(labels, "multilabel") == {"cat", "dog"}
    assert classes_in(["a|b"], "classification") == {"a|b"}
    expected = [[True, True], [False, False], [False, True], [False, False]]
    assert np.array_equal(indicators(labels, ["cat", "dog"]), expected)
    with pytest.raises(KeyError, match="cat"):
        indicators(labels, ["dog"])
