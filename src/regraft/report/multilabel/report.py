"""What the report of a run says whose model gives an image any number of classes.

Input: its record. Output: values for the templates of the page and the model card.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from regraft.data.labels import join_labels
from regraft.evaluation.calibration import MIN_IMAGES, Calibration
from regraft.evaluation.multilabel.metrics import MultilabelEvaluation
from regraft.evaluation.multilabel.predictions import MultilabelPredictions
from regraft.report import plots
from regraft.report.earlier_run import class_rows
from regraft.report.html import interval, percent, with_interval
from regraft.report.multilabel import sentences
from regraft.report.multilabel.record import MultilabelRecord
from regraft.report.sentences import PARTS, calibration_errors, name_classes
from regraft.report.task_report import DocumentView, Sentence, Table, TaskReport
from regraft.text import one_line, pluralize, shorten

#: Maximum number of classes in the table of co-occurrence, of pairs in a list, and of reliability diagrams.
_MAX_TABLE, _MAX_PAIRS, _MAX_DIAGRAMS = 24, 20, 4
_UNBROKEN_TO = "\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}"


def _sections(record: MultilabelRecord) -> dict[str, str]:
    return {
        "classes": "Per-class metrics",
        **({"earlier": "Compared with the earlier run"} if _changes(record) else {}),
        "curves": "Precision and recall",
        "together": "Classes together",
        "calibration": "Calibration",
        "predictions": "Top losses",
        "label_errors": "Label errors",
    }


def _changes(record: MultilabelRecord) -> list[tuple[str, ...]]:
    return class_rows(record.metrics.get("earlier_run") or {})


def _numbers(record: MultilabelRecord) -> list[tuple[str, str]]:
    if record.part is None:
        return []
    evaluation = record.evaluations[record.part]
    bounds = _UNBROKEN_TO.join(f"{bound:.3f}" for bound in evaluation.intervals["mean_average_precision"])
    return [
        (f"{evaluation.mean_average_precision:.3f}", f"{record.part} mean average precision ({bounds})"),
        (f"{evaluation.macro_f1:.3f}", f"macro-F1{' of the tested classes' if evaluation.untested else ''}"),
        (f"{evaluation.micro_f1:.3f}", "micro-F1"),
        (percent(evaluation.exact_match), f"{record.counted}s with all answers right"),
        (f"{evaluation.count:,}", f"{record.part} {record.counted}s"),
    ]


def _objection(record: MultilabelRecord) -> Sentence:
    return (record.at_chance,) if record.at_chance else ()


def _thresholds(record: MultilabelRecord) -> list[Sentence]:
    if record.part is None:
        return []
    calibration = record.metrics.get("calibration") or {}
    return list(sentences.thresholds(record.evaluations[record.part], calibration, record.part))


def _details(record: MultilabelRecord) -> dict[str, Any]:
    return {"label_rows": record.evaluations[record.part].weakest_first if record.part else []}


def _page_view(record: MultilabelRecord) -> dict[str, Any]:
    evaluation = record.evaluations[record.part] if record.part else None
    return {
        **_details(record),
        "thresholds": _thresholds(record),
        "changes": _changes(record),
        "curves": _curves(evaluation, record.reported) if evaluation and record.reported else [],
        "together": together_view(evaluation) if evaluation else None,
        "calibration": _calibration_view(record),
        "answers": _answers(record),
    }


def _curves(evaluation: MultilabelEvaluation, predictions: MultilabelPredictions) -> list[tuple[str, Any]]:
    """A chart for each of the classes with the lowest average precision."""
    charts = []
    for row in [row for row in evaluation.weakest_first if row.support][: plots.precision_recall.MAX_CHARTS]:
        column = predictions.classes.index(row.name)
        draw = partial(plots.precision_recall.draw_precision_recall, predictions=predictions, column=column)
        label = plots.precision_recall.describe_precision_recall(predictions, column)
        chart = plots.svg.panel(draw, f"curve-{column}", label)
        charts.append((f"{shorten(one_line(row.name), 40)}: {row.average_precision:.3f}", chart))
    return charts


def together_view(evaluation: MultilabelEvaluation) -> dict[str, Any]:
    """How many images have both of two classes: a table of few classes, and the most frequent pairs."""
    names, together = [row.name for row in evaluation.per_class], evaluation.cooccurrence
    support = np.maximum(np.diag(together), 1)
    levels = np.ceil(np.sqrt(together / support[:, None]) * 8).astype(int)
    cells = None
    if len(names) <= _MAX_TABLE:
        cells = [
            [("" if i == j else f"hit heat-{levels[i, j]}", int(n)) for j, n in enumerate(row)]
            for i, row in enumerate(together)
        ]
    rows, columns = np.triu_indices(len(names), 1)
    counts = together[rows, columns]
    order = [int(k) for k in np.argsort(-counts, kind="stable")[:_MAX_PAIRS] if counts[k]]
    pairs = []
    for k in order:
        i, j, both = int(rows[k]), int(columns[k]), int(counts[k])
        pairs.append((names[i], names[j], both, both / int(support[i]), both / int(support[j])))
    return {"names": names, "cells": cells, "pairs": pairs}


def _calibration_view(record: MultilabelRecord) -> dict[str, Any]:
    if record.calibrations is None:
        return {"charts": [], "rows": [], "sentence": ""}
    before, after = record.calibrations
    rows = [
        (name, _error(one, one.ece), _error(two, two.ece), _chance(two))
        for name, one, two in zip(record.classes, before.per_class, after.per_class, strict=True)
    ]
    order = sorted(range(len(rows)), key=lambda i: -after.per_class[i].ece)
    charts = []
    for i in order[:_MAX_DIAGRAMS]:
        calibration = after.per_class[i]
        label = f"Reliability diagram: expected calibration error {calibration.describe(record.counted)}."
        draw = partial(
            plots.reliability.draw_reliability,
            calibration=calibration,
            across="probability",
            up=f"{record.counted}s with the class",
        )
        chart = plots.svg.panel(draw, f"reliability-{i}", label)
        charts.append((shorten(one_line(record.classes[i]), 40), chart))
    return {"charts": charts, "rows": [rows[i] for i in order], "sentence": f"Mean over the classes: "
            f"{after.describe(record.counted)}. Before calibration it was {100 * before.ece:.1f} points."}  # fmt: skip


def _error(calibration: Calibration, ece: float) -> str:
    return f"{100 * ece:.2f} points" if calibration.images >= MIN_IMAGES else "too few images"


def _chance(calibration: Calibration) -> str:
    assert calibration.chance is not None
    assert calibration.chance_interval is not None
    return f"{100 * calibration.chance:.2f} points ({interval(calibration.chance_interval)})"


def _answers(record: MultilabelRecord) -> dict[int, list[tuple[str, str, str]]]:
    """For each reported image that is shown, its tags: what is wrong with the answer, the class, and the style."""
    if (predictions := record.reported) is None:
        return {}
    answers = {}
    for row in {i for _, rows, _ in record.picture_groups() for i in rows}:
        has, said = predictions.indicators[row], predictions.predicted[row]
        answers[row] = [
            (
                "" if has[i] and said[i] else "missing " if has[i] else "wrong ",
                predictions.classes[i],
                "tag" if has[i] and said[i] else "tag differs",
            )
            for i in np.flatnonzero(has | said)
        ]
    return answers


def _document(record: MultilabelRecord) -> DocumentView:
    evaluation = record.evaluations[record.part] if record.part else None
    return DocumentView(
        kind=(f"a model that says which of {pluralize(len(record.classes), 'class', 'classes')} an image has, any "
              "number of them",),
        answers=("The model says which of these classes an image has, also none or several: ",
                 *name_classes(record.classes), "."),
        labels="each with any number of labels. An image with several is counted for each of them",
        decides="A class is said from its own threshold of the probability on.",
        metrics=_metrics(record),
        scores=[] if evaluation is None else _scores(evaluation),
        about_scores="The average precision of a class says how well its probabilities order the "
        f"{record.counted}s, whatever the threshold; mAP is its mean over the classes. F1 is the harmonic mean of "
        "recall and precision at the thresholds: macro F1 its mean over the classes, and micro F1 that of all answers "
        "together. The 95 % confidence intervals are Wilson's for shares, and a Bayesian bootstrap's for the others. "
        f"They assume independent {record.counted}s.",
        classes=((), []) if evaluation is None else _class_table(evaluation),
        more_classes="classes with a higher average precision",
        calibration=_calibration_table(record),
        limitations=_label_errors(record),
        printed="prediction.labels",
    )  # fmt: skip


def _metrics(record: MultilabelRecord) -> list[tuple[str, str, float]]:
    """Metrics of the front matter: type, name and value."""
    if record.part is None:
        return []
    evaluation = record.evaluations[record.part]
    macro_f1 = "Macro F1" + (" of the tested classes" if evaluation.untested else "")
    metrics = [
        ("mean_average_precision", "Mean average precision", evaluation.mean_average_precision),
        ("f1", macro_f1, evaluation.macro_f1),
    ]
    if record.calibrations and evaluation.count >= MIN_IMAGES:
        metrics.append(("expected_calibration_error", "Mean expected calibration error", record.calibrations[1].ece))
    return [(kind, name, round(value, 6)) for kind, name, value in metrics]


def _scores(evaluation: MultilabelEvaluation) -> list[tuple[str, str, str]]:
    of_tested = " of the tested classes" if evaluation.untested else ""
    named = (("Mean average precision", "mean_average_precision"), (f"Macro F1{of_tested}", "macro_f1"),
             ("Micro F1", "micro_f1"))  # fmt: skip
    return [
        *((name, percent(getattr(evaluation, key)), interval(evaluation.intervals[key])) for name, key in named),
        (
            f"{evaluation.counted.capitalize()}s with all answers right",
            percent(evaluation.exact_match),
            interval(evaluation.exact_match_interval),
        ),
    ]


def _class_table(evaluation: MultilabelEvaluation) -> Table:
    counted = f"{evaluation.counted.capitalize()}s"
    head = ("Class, lowest AP first", counted, "AP", "Recall", "Precision", "F1", "Threshold")
    return head, [
        (
            row.name, f"{row.support:,}", with_interval(row.average_precision, row.average_precision_interval),
            with_interval(row.recall, row.recall_interval), with_interval(row.precision, row.precision_interval),
            with_interval(row.f1, row.f1_interval), percent(row.threshold) if row.threshold <= 1 else "never said",
        )
        for row in evaluation.weakest_first
    ]  # fmt: skip


def _calibration_table(record: MultilabelRecord) -> tuple[str, Table] | tuple[()]:
    """How the probabilities were calibrated, and their errors before and after."""
    if record.calibrations is None or record.part is None:
        return ()
    (before, after), fitted_on = record.calibrations, record.metrics["calibration"]["fitted_on"]
    text = f"The probabilities are not calibrated: there were no validation {record.counted}s."
    if fitted_on:
        text = (f"A slope and an offset of each class's logit, fitted on the {PARTS[fitted_on]} {record.counted}s; "
                "they are part of the last layer's weights.")  # fmt: skip
    rows: list[tuple[str, ...]] = [*calibration_errors(before, after)] if after.images >= MIN_IMAGES else []
    head = (f"On the {PARTS[record.part]} {record.counted}s, mean over the classes", "before", "after")
    return text, (head, rows)


def _label_errors(record: MultilabelRecord) -> list[str]:
    if not record.suspects:
        return []
    images = len({suspect.path for suspect in record.suspects})
    return [
        f"{images:,} of the validation and test {record.counted}s may lack a label or have a wrong one "
        "(label_errors.csv), which affects all metrics."
    ]


REPORT = TaskReport(
    page="multilabel.html.jinja",
    sections=_sections,
    numbers=_numbers,
    train_accuracy="answers that are right",
    quality=sentences.quality,
    confidence=sentences.confidence,
    objection=_objection,
    suspect_columns=("path", "labels", "class", "suggestion", "probability"),
    suspect_row=lambda s: (s.path, join_labels(s.labels), s.name, s.suggestion, s.probability),
    details=_details,
    page_view=_page_view,
    document=_document,
)
