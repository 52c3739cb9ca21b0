"""What a tree of classes adds to the page of a run: tables, and a confusion matrix for each level.

Input: a `Hierarchy`. Output: values for the page's template.
"""

from __future__ import annotations

from typing import Any

from regraft.evaluation.hierarchy import Hierarchy
from regraft.report.html import interval, percent
from regraft.text import pluralize


def metric_rows(hierarchy: Hierarchy) -> list[tuple[str, str, str]]:
    """Rows of a table: metric, value, interval."""
    measured = [
        (f"Hierarchical {'F1' if name == 'f1' else name}", getattr(hierarchy, name), hierarchy.intervals[name])
        for name in ("precision", "recall", "f1")
    ]
    measured += [
        (
            f"Accuracy at level {level.level}: {pluralize(len(level.nodes), 'node')}",
            level.accuracy,
            level.accuracy_interval,
        )
        for level in hierarchy.levels
    ]
    return [(name, percent(value), interval(bounds)) for name, value, bounds in measured]


def answer_rows(hierarchy: Hierarchy) -> list[tuple[str, str]]:
    """Rows of a table about answers at a confidence: metric, value; empty where there are none."""
    if (found := hierarchy.answers) is None:
        return []
    return [
        ("Least confidence", percent(found.min_confidence)),
        ("A class answers", percent(found.class_share)),
        ("A node above the classes answers", percent(found.coverage - found.class_share)),
        ("No answer", percent(1 - found.coverage)),
        ("Answers that are right", f"{percent(found.accuracy)} ({interval(found.accuracy_interval)})"),
        ("Hierarchical precision", percent(found.precision)),
        ("Hierarchical recall", percent(found.recall)),
        ("Hierarchical F1", percent(found.f1)),
    ]


def level_titles(hierarchy: Hierarchy) -> list[tuple[str, Any]]:
    """A title for each level above the classes, and its report."""
    return [(f"Level {level.level}: {pluralize(len(level.nodes), 'node')}", level) for level in hierarchy.levels]
