"""HTML of data sets, findings, metrics and predictions for notebooks.

Input: values of the layers below. Output: fragments that are small, readable on light and dark backgrounds and free of
scripts; text from the data is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from regraft.data.dataset import Dataset, Split
from regraft.data.quality.findings import Inspection
from regraft.evaluation.metrics import Evaluation
from regraft.evaluation.multilabel.metrics import MultilabelEvaluation
from regraft.evaluation.multilabel.predictions import MultilabelPredictions
from regraft.evaluation.predictions import Predictions
from regraft.report.classification import confusion_view
from regraft.report.html import render_fragment
from regraft.report.multilabel.report import together_view
from regraft.report.thumbnails import read_thumbnails
from regraft.studies.inspect.gallery import ClassSamples
from regraft.studies.inspect.page import class_tables, verdict

#: Classes with pictures, pictures per class, rows of a table of images, pictures per finding.
_CLASSES, _PER_CLASS, _ROWS, _PER_FINDING = 6, 8, 10, 4


def dataset(data: Dataset) -> str:
    """Draw the number of images per class, and some images."""
    names = data.classes[:_CLASSES]
    chosen: list[list[str]] = []
    for name in names:
        paths = [sample.path for sample in data.samples if name in data.names_of(sample)]
        chosen.append([paths[i * len(paths) // _PER_CLASS] for i in range(min(_PER_CLASS, len(paths)))])
    strips = dict(zip(names, _thumbnails(data, chosen), strict=True))
    return render_fragment("dataset.html.jinja", data=data, numbers="", strips=strips, max_rows=_ROWS, **_classes(data))


def split(parts: Split) -> str:
    """Draw the number of images per class and part."""
    numbers = ", ".join(f"{len(parts[part]):,} {part}" for part in parts)
    data = parts.dataset
    return render_fragment("dataset.html.jinja", data=data, numbers=numbers, strips={}, max_rows=0, **_classes(data))


def inspection(result: Inspection) -> str:
    """Draw the findings as a table, the most severe first, each with some of its images."""
    chosen = [[path for files in finding.files for path in files][:_PER_FINDING] for finding in result.findings]
    rows = list(zip(result.findings, _thumbnails(result.dataset, chosen), strict=True))
    return render_fragment("inspection.html.jinja", data=result.dataset, rows=rows, notes=result.notes,
                           verdict=verdict(result))  # fmt: skip


def evaluation(result: Evaluation) -> str:
    """Draw the metrics with their confidence intervals, the per-class metrics and the confusion matrix."""
    rows = sorted(result.per_class, key=lambda row: (row.support == 0, row.f1))
    return render_fragment("evaluation.html.jinja", evaluation=result, per_class_rows=rows,
                           confusion=confusion_view(result))  # fmt: skip


def predictions(result: Predictions) -> str:
    """Draw the first predictions, and the number of correct ones."""
    rows = [
        (result.ids[i], result.classes[result.labels[i]], result.classes[result.predicted[i]],
         float(result.confidence[i]))
        for i in range(min(_ROWS, len(result)))
    ]  # fmt: skip
    correct = int((result.predicted == result.labels).sum())
    return render_fragment("predictions.html.jinja", rows=rows, correct=correct, count=len(result))


def multilabel_evaluation(result: MultilabelEvaluation) -> str:
    """Draw the metrics with their confidence intervals, those of each class, and the classes that occur together."""
    return render_fragment("multilabel_evaluation.html.jinja", evaluation=result, together=together_view(result))


def multilabel_predictions(result: MultilabelPredictions) -> str:
    """Draw the first predictions, and the number of images with all answers right."""
    first = np.arange(min(_ROWS, len(result)))
    rows = zip(result.ids, result.names(result.indicators[first]), result.names(result.predicted[first]), strict=False)
    right = int((result.predicted == result.indicators).all(axis=1).sum())
    return render_fragment("multilabel_predictions.html.jinja", rows=list(rows), right=right, count=len(result))


def _classes(data: Dataset) -> dict[str, object]:
    return {"classes": class_tables(data, ClassSamples.draw(data, 0)) if data.samples else None}


def _thumbnails(data: Dataset, groups: Sequence[Sequence[str]]) -> list[list[tuple[str, str]]]:
    """For each group of paths, the paths that can be read with their thumbnails."""
    by_path = {sample.path: sample for sample in data.samples}
    present = [path for paths in groups for path in paths if path in by_path]
    thumbnails = read_thumbnails(present, lambda path: data.source(by_path[path]), data.picture_decoder())
    return [[(path, thumbnails[path]) for path in paths if path in thumbnails] for paths in groups]
