"""Compare a run with the run that it started from, on the held-out images that both have, class by class.

Input: the new predictions and split, and the earlier run. Output: plain JSON values for `metrics.json`. Where an image
has any number of classes, the answers for each class that both runs know are compared by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from regraft.config import Config
from regraft.data.dataset import Split
from regraft.data.strings import in_blocks
from regraft.errors import RegraftError
from regraft.evaluation.comparison import difference_of, holm
from regraft.evaluation.multilabel.comparison import paired_precision_difference
from regraft.evaluation.multilabel.metrics import mean_average_precision
from regraft.evaluation.multilabel.predictions import MultilabelPredictions
from regraft.evaluation.predictions import Predictions
from regraft.evaluation.tasks import AnyPredictions
from regraft.runs.class_changes import ClassChanges
from regraft.runs.run import Run
from regraft.runs.run_images import split_rows


def describe_earlier_run(config: Config, split: Split, predictions: AnyPredictions | None) -> dict[str, Any] | None:
    """What became of the classes of the earlier run, and which are predicted better or worse; None without one.

    `comparison` is None where no held-out image is in the same part of both runs, or the earlier one has no
    predictions.
    """
    if not config.run.from_run or not Path(config.run.from_run).is_dir():  # it may be gone since the start
        return None
    earlier, texts = Run(config.run.from_run), config.run.class_changes
    changes = ClassChanges.parse(texts, earlier.classes, earlier.task) if texts else None
    try:
        comparison = next(_comparisons(earlier, changes, split, predictions), None)
    except RegraftError:  # it was not evaluated
        comparison = None
    return {
        "run": str(earlier.path),
        "changes": changes and changes.describe(),
        "new_classes": sorted(set(split.classes) - set(changes.after if changes else earlier.classes)),
        "comparison": comparison,
    }


def _comparisons(
    earlier: Run, changes: ClassChanges | None, split: Split, predictions: AnyPredictions | None
) -> Iterator[dict[str, Any]]:
    """The comparison on each part that has images of both runs, test before val."""
    for part in ("test", "val"):
        found = None
        if isinstance(predictions, Predictions):
            one = changes.of_predictions(earlier.predictions) if changes else earlier.predictions
            found = _compare(earlier.path, one.part(part), split, predictions.part(part), part)
        elif isinstance(predictions, MultilabelPredictions):
            many = changes.of_label_predictions(earlier.label_predictions) if changes else earlier.label_predictions
            found = _compare_labels(earlier.path, many.part(part), split, predictions.part(part), part)
        if found is not None:
            yield found


def _pairs(path: Path, before: Sequence[str], split: Split, after: Sequence[str], part: str) -> list[tuple[int, int]]:
    """The rows of the same image, found by content, in predictions with these ids of a part, before and after."""
    hash_of_id = {row["path"]: row["sha256"] for row in split_rows(path) if row["part"] == part}
    row_of_hash = {hash_of_id[name]: row for row, name in enumerate(before) if name in hash_of_id}
    table = split.dataset.table
    new_hashes = dict(zip(in_blocks(table.paths), table.sha256s(), strict=True))
    return [(row_of_hash[sha256], row) for row, name in enumerate(after)
            if (sha256 := new_hashes.get(name)) in row_of_hash]  # fmt: skip


def _compare(path: Path, before: Predictions, split: Split, after: Predictions, part: str) -> dict[str, Any] | None:
    """Paired tests on the images of a part that both runs have with the same label."""
    pairs = _pairs(path, before.ids, split, after.ids, part)
    same = [(i, j) for i, j in pairs if before.classes[before.labels[i]] == after.classes[after.labels[j]]]
    if not same:
        return None
    rows = np.array(same)
    labels = np.array([after.classes[label] for label in after.labels[rows[:, 1]]])
    was_right = (before.predicted == before.labels)[rows[:, 0]]
    is_right = (after.predicted == after.labels)[rows[:, 1]]
    is_new = np.array([name not in before.classes for name in after.classes])

    def differ(chosen: np.ndarray) -> dict[str, Any]:
        was, now = was_right[chosen], is_right[chosen]
        return {
            "count": int(chosen.sum()), "before": float(was.mean()), "after": float(now.mean()), **_answers(was, now)
        }  # fmt: skip

    return {
        "part": part,
        "relabeled": len(pairs) - len(same),
        "as_new_class": int(is_new[after.predicted[rows[:, 1]]].sum()),
        **differ(np.ones(len(rows), bool)),
        "classes": _adjusted([{"name": name, **differ(labels == name)} for name in np.unique(labels).tolist()]),
    }


def _compare_labels(
    path: Path, before: MultilabelPredictions, split: Split, after: MultilabelPredictions, part: str
) -> dict[str, Any] | None:
    """Paired tests on the images of a part that both runs have with the same labels, of those that both know.

    Average precision is compared over these labels, and of each the answers at the thresholds of each run. None if no
    such label is there that some of the images have and others lack.
    """
    names = [name for name in after.classes if name in before.classes]
    was_of, is_of = (p.only_classes(names) for p in (before, after))
    pairs = _pairs(path, before.ids, split, after.ids, part)
    same = [(i, j) for i, j in pairs if np.array_equal(was_of.indicators[i], is_of.indicators[j])]
    if not same or not names:
        return None
    rows = np.array(same)
    was, now = was_of.take(rows[:, 0]), is_of.take(rows[:, 1])
    truth = now.indicators
    tested = np.flatnonzero(truth.any(axis=0) & ~truth.all(axis=0))
    if not len(tested):
        return None
    difference = paired_precision_difference(now, replace(was, ids=now.ids))
    labels = [
        {
            "name": names[column],
            "count": int(truth[:, column].sum()),
            **{
                when: mean_average_precision(truth[:, [column]], p.probabilities[:, [column]])
                for when, p in (("before", was), ("after", now))
            },
            **_answers(*((p.predicted[:, column] == truth[:, column]) for p in (was, now))),
        }
        for column in tested.tolist()
    ]
    return {
        "part": part,
        "metric": "mean_average_precision",
        "relabeled": len(pairs) - len(same),
        "as_new_class": 0,
        "count": len(rows),
        "before": mean_average_precision(truth, was.probabilities),
        "after": mean_average_precision(truth, now.probabilities),
        "interval": list(difference.interval),
        "p": difference.p,
        "classes": _adjusted(labels),
    }


def _answers(was_right: np.ndarray, is_right: np.ndarray) -> dict[str, Any]:
    """The paired test of whether the answers of two models are right, bool (n,) each."""
    better, worse = int((is_right & ~was_right).sum()), int((was_right & ~is_right).sum())
    difference = difference_of(better, worse, len(is_right))
    return {"better": better, "worse": worse, "interval": list(difference.interval), "p": difference.p}


def _adjusted(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with p-values that are adjusted for their number."""
    return [row | {"p": p} for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True)]
