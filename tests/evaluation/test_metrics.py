from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from regraft.errors import DataError
from regraft.evaluation import intervals
from regraft.evaluation.intervals import wilson_interval
from regraft.evaluation.metrics import Evaluation, confusion_matrix, evaluate, macro_f1, top_k_accuracy
from regraft.evaluation.predictions import Predictions
from regraft.text import display_width


def random_predictions(seed: int, count: int, classes: int, used: int | None = None) -> Predictions:
    """Labels from the first `used` classes; about half of the predictions right."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, used or classes, count)
    logits = rng.normal(size=(count, classes)) + 1.5 * np.eye(classes)[labels]
    exponents = np.exp(logits)
    return Predictions.from_arrays(labels, exponents / exponents.sum(axis=1, keepdims=True))


#: Seed, images, classes, classes with images.
CASES = [
    (0, 1, 2, None),
    (1, 200, 2, None),
    (2, 300, 7, None),
    (3, 12, 10, None),
    (4, 100, 12, 8),
    (5, 3, 40, 2),
]


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make intervals cheap where only the metrics themselves matter."""
    monkeypatch.setattr(intervals, "_DRAWS", 50)


@pytest.mark.usefixtures("few_draws")
def test_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(7)
    cases = list(CASES)
    for seed in range(100):
        classes = int(rng.integers(2, 15))
        cases.append((seed, int(rng.integers(1, 120)), classes, int(rng.integers(1, classes + 1))))
    for case in cases:
        assert_equal_to_scikit_learn(case)


def assert_equal_to_scikit_learn(case: tuple[int, int, int, int | None]) -> None:
    predictions = random_predictions(*case)
    labels, predicted, classes = predictions.labels, predictions.predicted, len(predictions.classes)
    result = evaluate(predictions)

    def close(value: float) -> object:
        return pytest.approx(value, abs=1e-9)

    assert result.count == len(labels)
    assert result.accuracy == close(sklearn_metrics.accuracy_score(labels, predicted))
    for average, ours in (
        ("macro", (result.macro_precision, result.macro_recall, result.macro_f1)),
        ("weighted", (None, None, result.weighted_f1)),
    ):
        theirs = sklearn_metrics.precision_recall_fscore_support(
            labels, predicted, labels=np.unique(labels), average=average, zero_division=0
        )
        for value, expected in zip(ours, theirs, strict=False):
            assert value is None or value == close(expected)
    assert macro_f1(result.confusion) == result.macro_f1
    assert result.confusion_matrix is result.confusion
    if np.isin(predicted, labels).all() and len(set(labels)) > 1:  # otherwise scikit-learn warns
        assert result.balanced_accuracy == close(sklearn_metrics.balanced_accuracy_score(labels, predicted))
    all_classes = np.arange(classes)
    assert result.loss == close(sklearn_metrics.log_loss(labels, predictions.probabilities, labels=all_classes))
    assert np.array_equal(result.confusion, sklearn_metrics.confusion_matrix(labels, predicted, labels=all_classes))
    theirs = sklearn_metrics.precision_recall_fscore_support(labels, predicted, labels=all_classes, zero_division=0)
    ours = [(r.precision, r.recall, r.f1, r.support) for r in result.per_class]
    np.testing.assert_allclose(np.array(ours), np.stack(theirs, axis=1), atol=1e-9)
    if classes > 5:
        top5 = sklearn_metrics.top_k_accuracy_score(labels, predictions.probabilities, k=5, labels=all_classes)
        assert result.top5 == close(top5)
    else:
        assert result.top5 is None


def test_balanced_accuracy_is_the_mean_recall_of_the_classes_that_have_images() -> None:
    predictions = Predictions.from_arrays([0, 0, 1], [[1.0, 0, 0], [0, 0, 1.0], [0, 1.0, 0]])
    result = evaluate(predictions)
    assert result.balanced_accuracy == pytest.approx((0.5 + 1) / 2)
    assert result.macro_recall == result.balanced_accuracy
    assert result.macro_f1 == pytest.approx((2 / 3 + 1) / 2)
    assert result.untested == ["2"] == result.to_json()["untested"]
    assert result.of_tested == " over the 2 of 3 classes that were tested (not 2)"
    assert "not tested: 2. Macro averages are over the other 2." in " ".join(result.cautions())


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(2, 9))
def test_the_order_of_the_images_does_not_matter(seed: int, count: int, classes: int) -> None:
    predictions = random_predictions(seed, count, classes)
    order = np.random.default_rng(seed).permutation(count)
    shuffled = Predictions.from_arrays(predictions.labels[order], predictions.probabilities[order])
    first, second = evaluate(predictions).to_json(), evaluate(shuffled).to_json()
    assert first.pop("loss") == pytest.approx(second.pop("loss"), abs=1e-12)
    assert first == second


# Newcombe (1998), Statistics in Medicine 17, 857-872, table I, method 3 (score, no continuity correction).
@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_against_published_values(hits: int, count: int, low: float, high: float) -> None:
    assert wilson_interval(hits, count) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 10_000).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count))))
def test_wilson_contains_the_proportion(case: tuple[int, int]) -> None:
    hits, count = case
    low, high = wilson_interval(hits, count)
    assert 0 <= low <= hits / count <= high <= 1
    assert low < high


def test_ties_rank_in_class_order() -> None:
    predictions = Predictions.from_arrays([0, 1, 2, 3], np.full((4, 4), 0.25))
    assert [top_k_accuracy(predictions, k) for k in (1, 2, 4)] == [0.25, 0.5, 1.0]
    assert evaluate(predictions).accuracy == top_k_accuracy(predictions, 1)


def test_the_loss_is_finite() -> None:
    assert evaluate(Predictions.from_arrays([0], [[0.0, 1.0]])).loss == pytest.approx(36.04, abs=0.01)
    assert str(evaluate(Predictions.from_arrays([1], [[0.0, 1.0]])).loss) == "0.0"


def test_confusion_has_true_classes_in_rows() -> None:
    confusion = confusion_matrix(np.array([0, 0, 1]), np.array([1, 1, 1]), 2)
    assert confusion.tolist() == [[0, 2], [0, 1]]
    assert confusion.dtype == np.int64


def test_no_predictions_are_refused() -> None:
    with pytest.raises(DataError, match="0 predictions"):
        evaluate(Predictions.from_arrays([], np.empty((0, 3))))


@pytest.mark.parametrize("case", CASES)
def test_json_is_plain_and_complete(case: tuple[int, int, int, int | None]) -> None:
    result = evaluate(random_predictions(*case))
    value = result.to_json()
    assert json.loads(json.dumps(value, allow_nan=False)) == value
    added = {"hierarchy", "ordinal", "counted", "subgroups"}  # of a tree, an order, groups, subgroups
    assert set(value) == {*Evaluation.__dataclass_fields__, "untested", "majority_class"} - added
    assert sum(map(sum, value["confusion"])) == value["count"]


def test_the_report_is_aligned_for_any_name() -> None:
    names = [
        "cat",
        "日本の猫",
        "a name that is longer than any heading of the table",
        "two\nlines\x1b[31m",
        "e\u0301",
    ]
    rng = np.random.default_rng(0)
    predictions = Predictions.from_arrays(rng.integers(0, 5, 50), rng.dirichlet(np.ones(5), 50), classes=names)
    text = evaluate(predictions).report()
    lines = text.splitlines()
    table = [*lines[: 1 + len(names)], lines[2 + len(names)]]
    assert len({display_width(line) for line in table}) == 1
    assert "\x1b" not in text
    assert all(word in text for word in ("日本の猫", "macro average", "95 % interval", "log loss"))
    assert not any(line != line.rstrip() for line in lines)
    longer = dataclasses.replace(predictions, classes=(*names[:4], "x" * 250))
    assert max(map(display_width, evaluate(longer).report().splitlines())) < 130


def test_a_report_of_many_classes_may_list_the_weakest() -> None:
    classes = [f"c{i:02d}" for i in range(30)]
    labels = np.arange(30).repeat(4)
    predicted = np.where((labels < 3) & (np.arange(120) % 4 == 0), 29, labels)
    evaluation = evaluate(Predictions.from_arrays(labels, np.eye(30)[predicted], classes))
    names = [line.split()[0] for line in evaluation.report(weakest=5).splitlines() if line.startswith("c")][1:]
    assert len(names) == 5
    assert {"c00", "c01", "c02", "c29"} < set(names)
    assert sum(line.startswith("c") for line in evaluation.report().splitlines()) == 31
    assert evaluation.report(weakest=15) == evaluation.report()
