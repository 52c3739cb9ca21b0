"""What is better and worse than in the run that a training started from, in sentences and as a table.

Input: `earlier_run` in a run's `metrics.json`. Output: sentences without the folder of any run, and rows of a table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from regraft.evaluation.comparison import SIGNIFICANT
from regraft.text import join_truncated, pluralize


def describe_earlier(earlier: Mapping[str, Any]) -> Iterator[str]:
    """What changed, and how the two runs compare on the held-out images of both."""
    name = PurePath(earlier["run"]).name
    if earlier["changes"]:
        yield f"Classes of {name}: {earlier['changes']}"
    if not (comparison := earlier["comparison"]):
        return
    part = {"val": "validation", "test": "test"}[comparison["part"]]
    doubt = "" if comparison["p"] < SIGNIFICANT else "; the difference is not significant"
    on = f"Compared with the run {name} on {pluralize(comparison['count'], f'{part} image')} of both"
    if comparison.get("metric") == "mean_average_precision":
        low, high = comparison["interval"]
        yield (
            f"{on}: mean average precision {comparison['before']:.3f} before, {comparison['after']:.3f} now (95 % "
            f"interval of the difference {low:+.3f} to {high:+.3f}; p = {comparison['p']:.2g}{doubt})."
        )
    else:
        low, high = (100 * bound for bound in comparison["interval"])
        yield (
            f"{on}: accuracy {100 * comparison['before']:.1f} % before, {100 * comparison['after']:.1f} % now (95 % "
            f"interval of the difference {low:+.1f} to {high:+.1f} points; {comparison['better']} better, "
            f"{comparison['worse']} worse, p = {comparison['p']:.2g}{doubt})."
        )
    for verb, sign in (("better", 1), ("worse", -1)):
        if names := _changed(comparison, sign):
            yield f"Significantly {verb} than before: {join_truncated(names)}."
    if earlier.get("new_classes") and comparison["as_new_class"]:
        count = pluralize(comparison["as_new_class"], "image")
        yield f"{count} of these {'is' if comparison['as_new_class'] == 1 else 'are'} now taken for a new class."
    if comparison["relabeled"]:
        yield f"{pluralize(comparison['relabeled'], 'other image')} of both had another label before."


def _changed(comparison: Mapping[str, Any], sign: int) -> list[str]:
    """Classes whose recall differs clearly, after Holm's adjustment, in one direction."""
    return [
        row["name"]
        for row in comparison["classes"]
        if row["p"] < SIGNIFICANT and sign * (row["better"] - row["worse"]) > 0
    ]


def class_rows(earlier: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row for each class, the worst change first: name, images, score before and now, better, worse, p.

    The score is the recall; where an image has any number of classes, the average precision.
    """
    comparison = earlier.get("comparison")
    rows = sorted(comparison["classes"], key=lambda row: row["after"] - row["before"]) if comparison else []
    return [
        (
            row["name"], f"{row['count']:,}", f"{100 * row['before']:.1f} %", f"{100 * row['after']:.1f} %",
            str(row["better"]), str(row["worse"]), f"{row['p']:.2g}",
        )
        for row in rows
    ]  # fmt: skip
