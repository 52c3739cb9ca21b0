"""Compare a run with the run that it started from, on the held-out images that both have, class by class.

Input: the new predictions and split, and the earlier run. Output: plain JSON values for `metrics.json`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from regraft.config import Config
from regraft.data.dataset import Split
from regraft.data.strings import in_blocks
from regraft.errors import RegraftError
from regraft.evaluation.comparison import difference_of, holm
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
    earlier = Run(config.run.from_run)
    changes = ClassChanges.parse(config.run.class_changes, earlier.classes) if config.run.class_changes else None
    comparison = None
    if isinstance(predictions, Predictions):
        try:
            before = earlier.predictions
        except RegraftError:  # it was not evaluated
            before = None
        if before is not None:
            before = changes.of_predictions(before) if changes else before
            parts = (_compare(earlier.path, before.part(p), split, predictions.part(p), p) for p in ("test", "val"))
            comparison = next((found for found in parts if found), None)
    return {
        "run": str(earlier.path),
        "changes": changes and changes.describe(),
        "new_classes": sorted(set(split.classes) - set(changes.after if changes else earlier.classes)),
        "comparison": comparison,
    }


def _compare(path: Path, before: Predictions, split: Split, after: Predictions, part: str) -> dict[str, Any] | None:
    """Paired tests on the images of a part that both runs have with the same label, found by content."""
    hash_of_id = {row["path"]: row["sha256"] for row in split_rows(path) if row["part"] == part}
    row_of_hash = {hash_of_id[name]: row for row, name in enumerate(before.ids) if name in hash_of_id}
    table = split.dataset.table
    new_hashes = dict(zip(in_blocks(table.paths), table.sha256s(), strict=True))
    pairs = [(row_of_hash[sha256], row) for row, name in enumerate(after.ids)
             if (sha256 := new_hashes.get(name)) in row_of_hash]  # fmt: skip
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
        difference = difference_of(int((now & ~was).sum()), int((was & ~now).sum()), int(chosen.sum()))
        return {
            "count": int(chosen.sum()),
            "before": float(was.mean()),
            "after": float(now.mean()),
            "better": difference.only_first,
            "worse": difference.only_second,
            "interval": list(difference.interval),
            "p": difference.p,
        }

    classes = [{"name": name, **differ(labels == name)} for name in np.unique(labels).tolist()]
    for row, p in zip(classes, holm([row["p"] for row in classes]), strict=True):
        row["p"] = p
    return {
        "part": part,
        "relabeled": len(pairs) - len(same),
        "as_new_class": int(is_new[after.predicted[rows[:, 1]]].sum()),
        **differ(np.ones(len(rows), bool)),
        "classes": classes,
    }
