"""Metrics under a tree, beside plain Python that follows the definitions on sets of node names."""

import dataclasses

import numpy as np
import pytest

from regraft.data.taxonomy import Taxonomy
from regraft.errors import DataError, UsageError
from regraft.evaluation.abstention import threshold_for
from regraft.evaluation.hierarchy import (
    Hierarchy,
    answer_nodes,
    hierarchy_of_part,
    measure_answers,
    measure_hierarchy,
    select_under_tree,
    threshold_under_tree,
)
from regraft.evaluation.metrics import Evaluation, evaluate
from regraft.evaluation.predictions import Predictions


def random_case(rng: np.random.Generator) -> tuple[Taxonomy, Predictions]:
    """A tree of 2 to 10 classes at random depths, and predictions of 1 to 40 images that are often right."""
    parents: dict[str, str | None] = {}
    nodes = [f"top{i}" for i in range(rng.integers(1, 4))]
    for i in range(rng.integers(0, 5)):
        parents[f"node{i}"] = str(rng.choice(nodes))
        nodes.append(f"node{i}")
    classes = [f"class{i}" for i in range(rng.integers(2, 11))]
    parents |= {label: [None, *nodes][rng.integers(len(nodes) + 1)] for label in classes}
    labels = rng.integers(0, len(classes), rng.integers(1, 41))
    probabilities = rng.dirichlet(np.full(len(classes), 0.5), len(labels))
    probabilities[np.arange(len(labels)), labels] += rng.uniform(0, 1.5, len(labels))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return Taxonomy.of(parents, classes), Predictions.from_arrays(labels, probabilities, classes)


def sets_of(tree: Taxonomy, names: list[str | None]) -> list[set[str]]:
    """The nodes at or above each name, found by its parents; none for None."""
    found = []
    for name in names:
        nodes = set()
        while name is not None:
            nodes.add(name)
            name = tree.parents[name]
        found.append(nodes)
    return found


def hierarchical(true: list[set[str]], answered: list[set[str]]) -> tuple[float, float, float]:
    """hP, hR and hF of Kiritchenko et al. 2005, equations over sets; 0 where a denominator is 0."""
    common = sum(len(t & a) for t, a in zip(true, answered, strict=True))
    all_true, all_answered = sum(map(len, true)), sum(map(len, answered))
    precision = common / all_answered if all_answered else 0.0
    recall = common / all_true
    return precision, recall, 2 * precision * recall / (precision + recall) if common else 0.0


def test_metrics_agree_with_the_definitions_on_1000_random_cases(monkeypatch):
    monkeypatch.setattr("regraft.evaluation.intervals._DRAWS", 10)  # of intervals, which other tests look at
    rng = np.random.default_rng(0)
    for _ in range(1000):
        tree, predictions = random_case(rng)
        labels = [tree.classes[i] for i in predictions.labels]
        true = sets_of(tree, labels)
        least = float(rng.uniform())
        found = [tree.nodes[i] if i >= 0 else None for i in answer_nodes(predictions, tree, least)]
        answers = measure_answers(predictions, tree, least)
        of_answers = hierarchical(true, sets_of(tree, found))
        has_answer = any(found)
        expected = of_answers if has_answer else (1.0, *of_answers[1:])
        assert (answers.precision, answers.recall, answers.f1) == pytest.approx(expected)
        right = [f is not None and f in t for f, t in zip(found, true, strict=True)]
        answered = [f is not None for f in found]
        assert answers.coverage == pytest.approx(np.mean(answered))
        assert answers.class_share == pytest.approx(np.mean([f in tree.classes for f in found]))
        assert answers.accuracy == pytest.approx(sum(right) / sum(answered) if has_answer else 1.0)
        measured = measure_hierarchy(predictions, tree)
        predicted = [tree.classes[i] for i in predictions.predicted]
        assert (measured.precision, measured.recall, measured.f1) == pytest.approx(
            hierarchical(true, sets_of(tree, predicted))
        )
        for level in measured.levels:
            pairs = [(tree.lineage(a)[: level.level][-1], tree.lineage(b)[: level.level][-1])
                     for a, b in zip(labels, predicted, strict=True)]  # fmt: skip
            assert level.accuracy == pytest.approx(np.mean([a == b for a, b in pairs]))
            for (i, a), (j, b) in ((x, y) for x in enumerate(level.nodes) for y in enumerate(level.nodes)):
                assert level.confusion[i, j] == pairs.count((a, b))


def test_without_a_level_above_the_classes_both_are_the_accuracy():
    rng = np.random.default_rng(1)
    labels, probabilities = rng.integers(0, 4, 60), rng.dirichlet(np.ones(4), 60)
    predictions = Predictions.from_arrays(labels, probabilities, "abcd")
    flat = Taxonomy.of(dict.fromkeys("abcd"), "abcd")
    measured = measure_hierarchy(predictions, flat)
    accuracy = evaluate(predictions).accuracy
    assert measured.precision == measured.recall == pytest.approx(accuracy)
    assert measured.levels == ()


@pytest.fixture
def tree() -> Taxonomy:
    return Taxonomy.of({"beagle": "dog", "pug": "dog", "dog": "animal", "cat": "animal", "oak": "plant"})


@pytest.fixture
def predictions(tree: Taxonomy) -> Predictions:
    rows = [
        [0.5, 0.1, 0.0, 0.4],
        [0.5, 0.1, 0.0, 0.4],
        [0.1, 0.8, 0.0, 0.1],
        [0.1, 0.2, 0.7, 0.0],
        [0.3, 0.3, 0.2, 0.2],
    ]
    return Predictions.from_arrays([0, 3, 1, 2, 2], np.array(rows), tree.classes)


def test_a_node_answers_where_no_class_is_sure(tree, predictions):
    def names(least: float) -> list[str | None]:
        return [tree.nodes[i] if i >= 0 else None for i in answer_nodes(predictions, tree, least)]

    assert names(0.75) == ["dog", "dog", "cat", None, "animal"]
    answers = measure_answers(predictions, tree, 0.75)
    assert (answers.coverage, answers.class_share, answers.accuracy) == (0.8, 0.2, 0.75)
    # 2 + 2 + 2 of 7 nodes are right; the true classes have 3 + 3 + 2 + 2 + 2.
    assert (answers.precision, answers.recall) == (pytest.approx(6 / 7), pytest.approx(6 / 12))
    nothing = measure_answers(predictions, tree, 1.1)
    assert (nothing.coverage, nothing.accuracy, nothing.precision, nothing.recall) == (0, 1, 1, 0)


def test_the_threshold_is_the_lowest_that_is_accurate_enough():
    rng = np.random.default_rng(2)
    for _ in range(15):
        tree, predictions = random_case(rng)
        wanted = float(rng.uniform(0.3, 1))
        nodes = tree.probabilities(predictions.probabilities)
        every = [select_under_tree(predictions, tree, least) for least in np.unique(nodes)]
        enough = [one for one in every if one.coverage and one.accuracy >= wanted]
        if not enough:
            with pytest.raises(UsageError, match="No confidence threshold reaches"):
                threshold_under_tree(predictions, tree, wanted)
            continue
        chosen, lowest = threshold_under_tree(predictions, tree, wanted), min(enough, key=lambda one: one.threshold)
        assert chosen == dataclasses.replace(lowest, threshold=chosen.threshold)  # below it nothing changes any more
    with pytest.raises(UsageError, match="expected a share above 0"):
        threshold_under_tree(predictions, tree, 0)


def test_without_nodes_above_the_classes_the_threshold_is_that_of_the_classes():
    rng = np.random.default_rng(3)
    labels, probabilities = rng.integers(0, 4, 60), rng.dirichlet(np.full(4, 0.3), 60)
    predictions = Predictions.from_arrays(labels, probabilities, "abcd")
    chosen = threshold_for(predictions, 0.3)
    under_tree = threshold_under_tree(predictions, Taxonomy.of(dict.fromkeys("abcd")), 0.3)
    assert (under_tree.threshold, under_tree.coverage, under_tree.accuracy) == (
        chosen.threshold, chosen.coverage, chosen.accuracy,
    )  # fmt: skip


def test_intervals_contain_the_values_and_shrink_with_more_images(tree, predictions):
    few = measure_hierarchy(predictions, tree)
    rows = np.tile(np.arange(len(predictions)), 100)
    many = measure_hierarchy(predictions.take(rows), tree)
    for name in ("precision", "recall", "f1"):
        for measured in (few, many):
            low, high = measured.intervals[name]
            assert 0 <= low <= getattr(measured, name) <= high <= 1
        assert np.ptp(many.intervals[name]) < np.ptp(few.intervals[name]) / 4


def test_a_hierarchy_travels_through_json_within_an_evaluation(tree, predictions):
    plain = evaluate(predictions)
    assert "hierarchy" not in plain.to_json()
    assert Evaluation.from_json(plain.to_json()).hierarchy is None
    measured = measure_hierarchy(predictions, tree, 0.75)
    again = Evaluation.from_json(dataclasses.replace(plain, hierarchy=measured).to_json()).hierarchy
    assert isinstance(again, Hierarchy)
    assert again.to_json() == measured.to_json()
    assert again.answers == measured.answers
    assert "hierarchical F1" in dataclasses.replace(plain, hierarchy=again).report()
    assert again.describe_answers().startswith(
        "At a confidence of 75.0 % or more, a class answers for 20.0 % of the images and a node above it for 60.0 %; "
        "75.0 % of these answers are right"
    )


def test_the_confidence_of_a_part_is_that_of_the_validation_images(tree, predictions):
    halves = Predictions(
        tuple("abcdefghij"), np.tile(predictions.labels, 2), np.tile(predictions.probabilities, (2, 1)), tree.classes,
        ("val",) * 5 + ("test",) * 5,
    )  # fmt: skip
    assert hierarchy_of_part(halves, "test", None) is None
    measured = hierarchy_of_part(halves, "test", tree)
    assert measured is not None
    assert measured.answers is not None
    assert measured.answers.accuracy >= 0.95
    assert measured.answers.min_confidence == threshold_under_tree(halves.part("val"), tree, 0.95).threshold
    given = hierarchy_of_part(halves, "test", tree, 0.75)
    assert given is not None
    assert given.answers == measure_answers(predictions, tree, 0.75)


def test_another_tree_and_no_images_are_refused(tree, predictions):
    with pytest.raises(DataError, match="is not that of the classes"):
        measure_hierarchy(predictions, tree.with_classes(("beagle", "cat")))
    with pytest.raises(DataError, match="expected at least one image"):
        measure_answers(predictions.take(np.array([], np.int64)), tree, 0.5)
