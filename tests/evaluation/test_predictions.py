from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from regraft.errors import DataError
from regraft.evaluation.predictions import Predictions

PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.4, 0.4, 0.2]])


def small() -> Predictions:
    return Predictions(
        ("a.png", "b.png", "c.png"),
        np.array([0, 1, 2]),
        PROBABILITIES,
        ("x", "y", "z"),
        ("train", "test", "test"),
    )


def test_predicted_and_confidence() -> None:
    predictions = small()
    assert predictions.predicted.tolist() == [0, 2, 0]
    assert predictions.confidence.tolist() == [0.7, 0.8, 0.4]
    assert len(predictions) == 3


def test_part_keeps_the_rows_of_one_part_in_order() -> None:
    part = small().part("test")
    assert part.ids == ("b.png", "c.png")
    assert part.labels.tolist() == [1, 2]
    assert part.parts == ("test", "test")
    assert np.array_equal(part.probabilities, PROBABILITIES[1:])
    assert len(small().part("val")) == 0
    with pytest.raises(DataError, match="expected train, val, test"):
        small().part("tset")


def test_from_arrays_takes_plain_lists() -> None:
    predictions = Predictions.from_arrays([1, 0], [[0.25, 0.75], [1.0, 0.0]])
    assert predictions.classes == ("0", "1")
    assert predictions.ids == ("0", "1")
    assert predictions.parts == ("", "")
    assert (predictions.labels.dtype, predictions.probabilities.dtype) == (np.int64, np.float64)


def test_from_arrays_takes_no_images() -> None:
    assert len(Predictions.from_arrays([], np.empty((0, 3)))) == 0


def test_the_arrays_are_copied_and_read_only() -> None:
    original = PROBABILITIES.copy()
    predictions = Predictions.from_arrays([0, 1, 2], original)
    original[:] = 0
    assert np.array_equal(predictions.probabilities, PROBABILITIES)
    with pytest.raises(ValueError, match="read-only"):
        predictions.probabilities[0, 0] = 1


def test_half_precision_is_accepted() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 20)).astype(np.float32)
    exponents = np.exp(logits)
    half = (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float16)
    assert len(Predictions.from_arrays(np.zeros(50, dtype=np.int32), half)) == 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [0, 1]}, r"expected floats \(2, 3\)"),
        ({"labels": [0, 1, 3]}, "expected 0 to 2"),
        ({"labels": [0, -1, 2]}, "labels from -1"),
        ({"labels": [0.0, 1.0, 2.0]}, "expected whole numbers"),
        ({"labels": [[0], [1], [2]]}, r"expected whole numbers \(N,\)"),
        ({"probabilities": PROBABILITIES[:, :2], "classes": ["x", "y", "z"]}, r"shape \(3, 2\)"),
        ({"probabilities": np.log(PROBABILITIES)}, "negative"),
        ({"probabilities": PROBABILITIES * 1.01}, "do not sum to 1"),
        ({"probabilities": PROBABILITIES * np.nan}, "not finite"),
        ({"probabilities": np.eye(3, dtype=int)}, "expected floats"),
        ({"probabilities": 1.0}, r"shape \(\)"),
        ({"classes": ["x", "x", "y"]}, "all different"),
        ({"classes": ["x", "y"]}, "2 classes"),
        ({"ids": ["a"]}, "1 ids"),
    ],
)
def test_inconsistent_values_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Predictions.from_arrays(**({"labels": [0, 1, 2], "probabilities": PROBABILITIES} | change))


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(DataError, match="validation"):
        Predictions(("a",), np.array([0]), np.array([[1.0]]), ("x",), ("validation",))


# Carriage returns are left out: with a line feed as line end, Python 3.11's csv writer leaves them unquoted.
names = st.text(st.characters(codec="utf-8", exclude_characters="\r"))


@st.composite
def any_predictions(draw: Callable[..., Any]) -> Predictions:
    classes = draw(st.lists(names, min_size=1, max_size=5, unique=True))
    count = draw(st.integers(0, 6))
    raw = draw(arrays(np.float64, (count, len(classes)), elements=st.floats(1e-3, 1)))
    return Predictions(
        tuple(draw(st.lists(names, min_size=count, max_size=count))),
        draw(arrays(np.int64, count, elements=st.integers(0, len(classes) - 1))),
        raw / raw.sum(axis=1, keepdims=True),
        tuple(classes),
        tuple(draw(st.lists(st.sampled_from(["train", "val", "test", ""]), min_size=count, max_size=count))),
    )


@settings(max_examples=25)
@given(any_predictions())
def test_write_then_read_is_the_identity(predictions: Predictions) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "predictions.csv"
        predictions.write_csv(path)
        again = Predictions.read_csv(path)
    assert (again.ids, again.classes, again.parts) == (
        predictions.ids,
        predictions.classes,
        predictions.parts,
    )
    assert np.array_equal(again.labels, predictions.labels)
    assert np.array_equal(again.probabilities, predictions.probabilities)


def test_csv_columns_and_cells(tmp_path: Path) -> None:
    small().write_csv(tmp_path / "predictions.csv")
    first, second, *_ = (tmp_path / "predictions.csv").read_text(encoding="utf-8").splitlines()
    assert first == "id,label,predicted,part,p(x),p(y),p(z)"
    assert second == "a.png,x,x,train,0.7,0.2,0.1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read"),
        ("path,label\n", "expected id, label, predicted, part"),
        ("id,label,predicted,part,x\n", "expected id, label"),
        ("id,label,predicted,part,p(x)\na,y,x,,1.0\n", "row 2: label 'y'; expected one of x"),
        ("id,label,predicted,part,p(x)\na,x,x,,one\n", "row 2: could not convert"),
        ("id,label,predicted,part,p(x),p(y)\na,x,x,,1.0\n", "row 2: 5 cells, expected 6"),
        ("id,label,predicted,part,p(x)\na\n", "row 2"),
        ("id,label,predicted,part,p(x)\na,x,x,,0.5\n", "do not sum to 1"),
    ],
)
def test_a_damaged_csv_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "predictions.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        Predictions.read_csv(path)


def test_a_missing_csv_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.csv cannot be read"):
        Predictions.read_csv(tmp_path / "nowhere.csv")
