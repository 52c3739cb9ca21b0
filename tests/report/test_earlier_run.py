"""What is better and worse than in an earlier run, in sentences."""

from __future__ import annotations

from typing import Any

from regraft.evaluation.comparison import difference_of
from regraft.report.earlier_run import class_rows, describe_earlier


def row(name: str, count: int, better: int, worse: int) -> dict[str, Any]:
    difference = difference_of(better, worse, count)
    return {
        "name": name, "count": count, "before": 0.5, "after": 0.5 + (better - worse) / count, "better": better,
        "worse": worse, "interval": list(difference.interval), "p": difference.p,
    }  # fmt: skip


def test_clear_changes_are_named_and_others_are_not() -> None:
    whole = row("", 300, 20, 22)
    classes = [row("cat", 100, 18, 0), row("dog", 100, 1, 2), row("fox", 100, 1, 20)]
    comparison = {"part": "test", "relabeled": 0, "as_new_class": 7, "classes": classes, **whole}
    earlier = {"run": "/a/b/first", "changes": None, "new_classes": ["owl"], "comparison": comparison}
    text = list(describe_earlier(earlier))
    start = "Compared with the run first on 300 test images of both: accuracy 50.0 % before, 49.3 % now"
    assert text[0].startswith(start)
    assert "the difference is not significant" in text[0]
    assert text[1:] == [
        "Significantly better than before: cat.",
        "Significantly worse than before: fox.",
        "7 images of these are now taken for a new class.",
    ]
    assert [cells[0] for cells in class_rows(earlier)] == ["fox", "dog", "cat"]


def test_without_common_images_only_the_changes_are_said() -> None:
    earlier = {"run": "first", "changes": "a is dropped.", "new_classes": [], "comparison": None}
    assert list(describe_earlier(earlier)) == ["Classes of first: a is dropped."]
    assert class_rows(earlier) == []


def test_of_several_labels_the_average_precision_is_compared() -> None:
    classes = [row("cat", 100, 18, 0), row("fox", 100, 1, 20)]
    comparison = {"part": "val", "metric": "mean_average_precision", "count": 50, "relabeled": 0, "as_new_class": 0,
                  "before": 0.9, "after": 0.95, "interval": [0.01, 0.09], "p": 0.02, "classes": classes}  # fmt: skip
    earlier = {"run": "/a/b/first", "changes": None, "new_classes": [], "comparison": comparison}
    assert list(describe_earlier(earlier)) == [
        "Compared with the run first on 50 validation images of both: mean average precision 0.900 before, 0.950 now "
        "(95 % interval of the difference +0.010 to +0.090; p = 0.02).",
        "Significantly better than before: cat.",
        "Significantly worse than before: fox.",
    ]
    assert class_rows(earlier)[1] == ("cat", "100", "50.0 %", "68.0 %", "18", "0", "7.6e-06")
