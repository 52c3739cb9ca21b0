"""Metrics of predictions under a tree of classes: by level, and of answers that may be nodes above the classes.

Hierarchical precision, recall and F1 are those of Kiritchenko, Matwin and Famili 2005 ("Functional Annotation of Genes
Using Hierarchical Text Categorization"), which Silla and Freitas 2011 recommend (Data Mining and Knowledge Discovery
22, 31-72): of the nodes at or above the answers, the share that is at or above the true classes, and the other way
round, over all images together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from regraft.data.pooling import Counted
from regraft.data.taxonomy import Taxonomy
from regraft.data.tree_answers import answers, most_probable_paths
from regraft.errors import DataError, UsageError
from regraft.evaluation.abstention import Selection
from regraft.evaluation.intervals import draw_sums, interval_about, wilson_interval
from regraft.evaluation.predictions import Predictions
from regraft.text import pluralize

#: Accuracy for which a confidence is chosen on the validation images.
TARGET_ACCURACY = 0.95
#: Images whose nodes are in memory at once.
_BLOCK = 4096


@dataclass(frozen=True, eq=False)
class LevelReport:
    """Metrics at one level of the tree, where a class above it stands for itself.

    Attributes:
        level: Number of the level, 1 at the top.
        nodes: Names in the order of the tree.
        accuracy: Share of the images whose most probable class is at or below the node of the true one, 0..1.
        accuracy_interval: 95 % Wilson interval, (low, high).
        confusion: Confusion matrix of the nodes, read-only int64 (nodes, nodes); row: true, column: predicted.
    """

    level: int
    nodes: tuple[str, ...]
    accuracy: float
    accuracy_interval: tuple[float, float]
    confusion: np.ndarray


@dataclass(frozen=True)
class Answers:
    """Metrics of answers at a confidence, all in 0..1: the class where it is sure, else a node above the classes.

    Attributes:
        min_confidence: Least probability of an answer.
        coverage: Share of the images that have an answer.
        class_share: Share of the images whose answer is a class.
        accuracy: Share of the answers that are the true class or above it; 1 if there are none.
        accuracy_interval: 95 % Wilson interval, (low, high); (0, 1) if there are none.
        precision: Hierarchical precision; 1 if there are no answers.
        recall: Hierarchical recall; an image without an answer has none of its nodes.
        f1: Hierarchical F1, the harmonic mean of both.
    """

    min_confidence: float
    coverage: float
    class_share: float
    accuracy: float
    accuracy_interval: tuple[float, float]
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, eq=False)
class Hierarchy:
    """What a tree adds to an `Evaluation`.

    Attributes:
        precision: Hierarchical precision of the most probable classes, 0..1, as the next two.
        recall: Hierarchical recall.
        f1: Hierarchical F1.
        intervals: 95 % intervals of these three by the Bayesian bootstrap, (low, high), by their names.
        levels: Reports of the levels above the last one, whose nodes are the classes.
        answers: Metrics of answers at a confidence; None where none was given or chosen.
    """

    precision: float
    recall: float
    f1: float
    intervals: Mapping[str, tuple[float, float]]
    levels: tuple[LevelReport, ...]
    answers: Answers | None

    def rows(self) -> list[tuple[str, float, tuple[float, float]]]:
        """Names of the metrics, their values and intervals: hierarchical F1, and the accuracy at each level."""
        levels = [(f"accuracy at level {one.level}", one.accuracy, one.accuracy_interval) for one in self.levels]
        return [("hierarchical F1", self.f1, self.intervals["f1"]), *levels]

    def describe_answers(self, counted: Counted = "image") -> str:
        """A sentence about the answers at a confidence; "" where there are none."""
        if (found := self.answers) is None:
            return ""
        low, high = (100 * bound for bound in found.accuracy_interval)
        above = found.coverage - found.class_share
        return (
            f"At a confidence of {100 * found.min_confidence:.1f} % or more, a class answers for "
            f"{100 * found.class_share:.1f} % of the {counted}s and a node above it for {100 * above:.1f} %; "
            f"{100 * found.accuracy:.1f} % of these answers are right (95 % interval {low:.1f} to {high:.1f}), and "
            f"the hierarchical F1 is {found.f1:.4f}."
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        levels = [
            {
                "level": level.level, "nodes": list(level.nodes), "accuracy": level.accuracy,
                "accuracy_interval": list(level.accuracy_interval), "confusion": level.confusion.tolist(),
            }
            for level in self.levels
        ]  # fmt: skip
        found = self.answers and asdict(self.answers) | {"accuracy_interval": list(self.answers.accuracy_interval)}
        intervals = {name: list(interval) for name, interval in self.intervals.items()}
        return {
            "precision": self.precision, "recall": self.recall, "f1": self.f1, "intervals": intervals,
            "levels": levels, "answers": found,
        }  # fmt: skip

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Hierarchy:
        """The inverse of `to_json`."""
        levels = tuple(
            LevelReport(
                level["level"], tuple(level["nodes"]), level["accuracy"], _pair(level["accuracy_interval"]),
                _frozen(np.array(level["confusion"], np.int64)),
            )
            for level in value["levels"]
        )  # fmt: skip
        found = value["answers"]
        return cls(
            value["precision"], value["recall"], value["f1"],
            {name: _pair(interval) for name, interval in value["intervals"].items()}, levels,
            found and Answers(**{**found, "accuracy_interval": _pair(found["accuracy_interval"])}),
        )  # fmt: skip


def measure_hierarchy(predictions: Predictions, tree: Taxonomy, min_confidence: float | None = None) -> Hierarchy:
    """Measure predictions, of one image or more, under the tree of their classes; `DataError` for another tree."""
    _check(predictions, tree)
    classes = len(tree.classes)
    confusion = _counts(predictions.labels, predictions.predicted, classes, classes)
    shared, sizes = _overlaps(tree)
    shared, sizes = shared[:classes, :classes], sizes[:classes]
    values = _ratios(*_sums(confusion, shared, sizes, sizes))
    of_pair = np.stack(np.broadcast_arrays(shared, sizes[:, None], sizes[None, :]), axis=-1)
    draws = [_ratios(*sums.T) for sums in draw_sums(confusion, of_pair)]
    names = ("precision", "recall", "f1")
    intervals = {
        name: _pair(interval_about(value, np.concatenate([draw[i] for draw in draws])).tolist())
        for i, (name, value) in enumerate(zip(names, values, strict=True))
    }
    precision, recall, f1 = map(float, values)
    levels = tuple(_level(confusion, tree, level) for level in range(1, tree.depth))
    found = None if min_confidence is None else measure_answers(predictions, tree, min_confidence)
    return Hierarchy(precision, recall, f1, intervals, levels, found)


def measure_answers(predictions: Predictions, tree: Taxonomy, min_confidence: float) -> Answers:
    """Measure the answers at a confidence: classes, nodes above them, or none."""
    _check(predictions, tree)
    found, classes = answer_nodes(predictions, tree, min_confidence), len(tree.classes)
    has_answer, count = found >= 0, len(predictions)
    right = int(tree.ancestors[predictions.labels[has_answer], found[has_answer]].sum())
    answered = int(has_answer.sum())
    shared, sizes = _overlaps(tree)
    # The last column is that of images without an answer, which have no nodes.
    shared = np.column_stack([shared[:classes], np.zeros(classes, np.int64)])
    counts = _counts(predictions.labels, np.where(has_answer, found, len(tree.nodes)), classes, len(tree.nodes) + 1)
    precision, recall, f1 = map(float, _ratios(*_sums(counts, shared, sizes[:classes], np.append(sizes, 0))))
    return Answers(
        min_confidence, answered / count, float((has_answer & (found < classes)).mean()),
        right / answered if answered else 1.0, wilson_interval(right, answered) if answered else (0.0, 1.0),
        precision if answered else 1.0, recall, f1,
    )  # fmt: skip


def answer_nodes(predictions: Predictions, tree: Taxonomy, min_confidence: float) -> np.ndarray:
    """The node that answers for each image as a number in `tree.nodes`, -1 for none, int64 (N,)."""
    found = [
        answers(tree.probabilities(block), tree.parent_numbers, len(tree.classes), min_confidence)
        for block in _blocks(predictions)
    ]
    return np.concatenate([np.empty(0, np.int64), *found])


def select_under_tree(predictions: Predictions, tree: Taxonomy, min_confidence: float) -> Selection:
    """As `abstention.select` for answers that may be nodes above the classes."""
    found = measure_answers(predictions, tree, min_confidence)
    return Selection(
        min_confidence, found.coverage, found.accuracy, found.accuracy_interval, len(predictions), found.class_share
    )


def threshold_under_tree(predictions: Predictions, tree: Taxonomy, accuracy: float) -> Selection:
    """As `abstention.threshold_for`: the lowest confidence at which the answers have an accuracy in 0..1.

    At the lowest one, most images have an answer, and the answers are the deepest.
    """
    if not 0 < accuracy <= 1:
        raise UsageError(f"The required accuracy is {accuracy:g}; expected a share above 0 and at most 1.")
    _check(predictions, tree)
    thresholds, accepted, right = _steps(predictions, tree)
    order = np.argsort(-thresholds, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(thresholds[order]) != 0, True))
    accuracies = np.cumsum(right[order])[ends] / np.cumsum(accepted[order])[ends]
    sufficient = np.flatnonzero(accuracies >= accuracy)
    if not len(sufficient):
        raise UsageError(
            f"No confidence threshold reaches an accuracy of {100 * accuracy:g} %: the best reaches "
            f"{100 * accuracies.max():.1f} % on {pluralize(len(predictions), 'validation image')}. Require less."
        )
    return select_under_tree(predictions, tree, float(thresholds[order][ends[sufficient[-1]]]))


def check_tree(tree: Taxonomy | None, what: object) -> Taxonomy:
    """Return the tree; raises `UsageError` if there is none for a minimum confidence."""
    if tree is None:
        raise UsageError(f"{what} has no tree of classes, which min_confidence is for. Leave it out.")
    return tree


def target_confidence(val: Predictions, tree: Taxonomy) -> float | None:
    """The lowest confidence that gives answers `TARGET_ACCURACY` on validation images; None without one."""
    try:
        return threshold_under_tree(val, tree, TARGET_ACCURACY).threshold if len(val) else None
    except UsageError:
        return None


def hierarchy_of_part(
    predictions: Predictions, part: str, tree: Taxonomy | None, min_confidence: float | None = None
) -> Hierarchy | None:
    """Measure a part of the predictions of a run, by default at the `target_confidence` of the validation images.

    None without a tree.
    """
    if tree is None:
        return None
    chosen = target_confidence(predictions.part("val"), tree) if min_confidence is None else min_confidence
    return measure_hierarchy(predictions.part(part), tree, chosen)


def _steps(predictions: Predictions, tree: Taxonomy) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where answers change as the confidence falls: its values, and how many more are accepted and right there.

    float64 and twice int64 (n,). The answer of an image is the next node of its path, and at last its best class.
    """
    columns: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    start = 0
    for block in _blocks(predictions):
        labels, rows = predictions.labels[start : start + len(block)], np.arange(len(block))
        start += len(block)
        nodes = tree.probabilities(block)
        best = block.argmax(axis=1)
        final = nodes[rows, best]
        was_accepted, was_right = np.zeros(len(block), bool), np.zeros(len(block), np.int64)
        for step in [*most_probable_paths(nodes, tree.parent_numbers).T, best]:
            value = nodes[rows, step]
            changes = value > final if step is not best else np.ones(len(block), bool)
            is_right = tree.ancestors[labels, step].astype(np.int64)
            columns.append((value[changes], (changes & ~was_accepted)[changes], (is_right - was_right)[changes]))
            was_right = np.where(changes, is_right, was_right)
            was_accepted |= changes
    thresholds, accepted, right = (np.concatenate(values) for values in zip(*columns, strict=True))
    return thresholds, accepted.astype(np.int64), right


def _level(confusion: np.ndarray, tree: Taxonomy, level: int) -> LevelReport:
    nodes, of_class = tree.at_level(level)
    counts = np.zeros((len(nodes), len(nodes)), np.int64)
    np.add.at(counts, (of_class[:, None], of_class[None, :]), confusion)
    hits, count = int(np.trace(counts)), int(counts.sum())
    return LevelReport(level, nodes, hits / count, wilson_interval(hits, count), _frozen(counts))


def _overlaps(tree: Taxonomy) -> tuple[np.ndarray, np.ndarray]:
    """Number of nodes at or above both of two nodes, int64 (nodes, nodes), and at or above each, int64 (nodes,)."""
    above = tree.ancestors.astype(np.float32)  # exact for such counts, and unlike integers multiplied by BLAS
    return np.rint(above @ above.T).astype(np.int64), tree.ancestors.sum(axis=1, dtype=np.int64)


def _sums(
    counts: np.ndarray, shared: np.ndarray, of_true: np.ndarray, of_answer: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes in common, of the true classes and of the answers, added up over counts (classes, answers)."""
    return (counts * shared).sum(), (counts.sum(axis=1) * of_true).sum(), (counts.sum(axis=0) * of_answer).sum()


def _ratios(common: np.ndarray, true: np.ndarray, answered: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hierarchical precision, recall and F1 of sums of nodes; 0 where a denominator is 0."""
    pairs = ((common, answered), (common, true), (2 * common, true + answered))
    precision, recall, f1 = (np.asarray(part / np.where(whole > 0, whole, 1)) for part, whole in pairs)
    return precision, recall, f1


def _counts(labels: np.ndarray, found: np.ndarray, rows: int, columns: int) -> np.ndarray:
    return np.bincount(labels * columns + found, minlength=rows * columns).astype(np.int64).reshape(rows, columns)


def _blocks(predictions: Predictions) -> Iterator[np.ndarray]:
    for start in range(0, len(predictions), _BLOCK):
        yield predictions.probabilities[start : start + _BLOCK]


def _check(predictions: Predictions, tree: Taxonomy) -> None:
    if not len(predictions):
        raise DataError("0 predictions; expected at least one image to evaluate")
    if predictions.classes != tree.classes:
        raise DataError(f"{tree.name} is not that of the classes of the predictions.")


def _pair(values: Any) -> tuple[float, float]:
    low, high = values
    return float(low), float(high)


def _frozen(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array
