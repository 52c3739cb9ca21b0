"""What the report of a run says whose model gives an image one class.

Input: its record. Output: values for the templates of the page and the model card.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from regraft.evaluation.abstention import risk_coverage
from regraft.evaluation.calibration import MIN_IMAGES, Calibration
from regraft.evaluation.hierarchy import Hierarchy
from regraft.evaluation.metrics import Evaluation
from regraft.evaluation.ordinal import OrdinalScores
from regraft.report import plots, sentences
from regraft.report.earlier_run import class_rows
from regraft.report.hierarchy import answer_rows, level_titles, metric_rows
from regraft.report.html import interval, percent, short, with_interval
from regraft.report.record import ClassificationRecord
from regraft.report.task_report import DocumentView, Sentence, Table, TaskReport
from regraft.text import join_truncated, pluralize

#: Maximum number of classes in a confusion matrix with numbers, and in one without.
MAX_NUMBERS, MAX_DRAWN = 24, 100
#: Maximum number of pairs of confused classes.
_MAX_PAIRS = 20
_ABOUT_INTERVALS = "The 95 % confidence intervals are Wilson's for shares, and a Bayesian bootstrap's for the others."
#: Between the bounds of an interval in a narrow column.
_UNBROKEN_TO = "\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}"


def _sections(record: ClassificationRecord) -> dict[str, str]:
    changes = class_rows(record.metrics.get("earlier_run") or {})
    return {
        "confusion": "Confusion matrix",
        **({"tree": "Tree of classes"} if _hierarchy(record) else {}),
        **({"order": "Order of the classes"} if _ordinal(record) else {}),
        "classes": "Per-class metrics",
        **({"earlier": "Compared with the earlier run"} if changes else {}),
        "calibration": "Calibration",
        "predictions": "Top losses",
        "label_errors": "Label errors",
    }


def _numbers(record: ClassificationRecord) -> list[tuple[str, str]]:
    if record.part is None:
        return []
    evaluation = record.evaluations[record.part]
    return [
        (
            percent(evaluation.accuracy),
            f"{record.part} accuracy ({interval(evaluation.accuracy_interval)})".replace(" to ", _UNBROKEN_TO),
        ),
        (f"{evaluation.macro_f1:.3f}", f"macro-F1{' of the tested classes' if evaluation.untested else ''}"),
        *_kappa(evaluation.ordinal),
        (f"{evaluation.count:,}", f"{record.part} {record.counted}s"),
    ]


def _hierarchy(record: ClassificationRecord) -> Hierarchy | None:
    return record.evaluations[record.part].hierarchy if record.part else None


def _ordinal(record: ClassificationRecord) -> OrdinalScores | None:
    return record.evaluations[record.part].ordinal if record.part else None


def _kappa(scores: OrdinalScores | None) -> list[tuple[str, str]]:
    """The quadratic weighted kappa, as a number on top of the page."""
    if scores is None or scores.quadratic_kappa is None:
        return []
    low, high = scores.intervals["quadratic_kappa"]
    return [(f"{scores.quadratic_kappa:.3f}", f"quadratic kappa ({low:.3f}{_UNBROKEN_TO}{high:.3f})")]


def _ordinal_rows(scores: OrdinalScores) -> list[tuple[str, str, str]]:
    """Rows of a table: metric, value, interval."""
    return [
        (name[0].upper() + name[1:], f"{value:.3f}", f"{low:.3f} to {high:.3f}")
        for name, value, (low, high) in scores.rows()
    ]


def _objection(record: ClassificationRecord) -> Sentence:
    return sentences.objection(record.evaluations[record.part]) if record.part else ()


def _details(record: ClassificationRecord) -> dict[str, Any]:
    return {"confusion": confusion_view(record.evaluations[record.part]) if record.part else None}


def _page_view(record: ClassificationRecord) -> dict[str, Any]:
    return {
        **_details(record),
        "tree": _tree_view(hierarchy) if (hierarchy := _hierarchy(record)) else None,
        "order_rows": _ordinal_rows(scores) if (scores := _ordinal(record)) else [],
        "changes": class_rows(record.metrics.get("earlier_run") or {}),
        "per_class_rows": record.weakest_first(),
        "calibration": _calibration_view(record),
    }


def _document(record: ClassificationRecord) -> DocumentView:
    evaluation = record.evaluations[record.part] if record.part else None
    is_ordered = bool(record.description.get("head", {}).get("ordered"))
    count = pluralize(len(record.classes), "class", "classes")
    tree = " under a tree" if record.description.get("taxonomy") else ""
    answers = sentences.name_classes(record.classes)
    return DocumentView(
        kind=(f"an image classifier with {count}{' that have an order' if is_ordered else ''}{tree}",),
        answers=("The model predicts which of these classes an image shows: ", *answers, "."),
        always_answers="It always predicts one of its classes, even for an image that shows none of them",
        labels="each with one label",
        decides="The answer is the class with the highest probability; that probability is its confidence.",
        metrics=_metrics(record),
        scores=[] if evaluation is None else _scores(evaluation),
        about_scores="Accuracy is the share of right answers, and macro F1 the mean over the classes of the harmonic "
        "mean of recall and precision, in which a rare class counts as much as a frequent one. Balanced accuracy is "
        f"the mean recall. {_ABOUT_INTERVALS} They assume independent {record.counted}s.",
        classes=_class_table(record),
        more_classes="classes with a higher F1",
        calibration=_calibration_table(record),
        limitations=[*_weak_classes(record), *_label_errors(record)],
        printed="prediction.top(3)",
        rejects=True,
    )  # fmt: skip


def _scores(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    of_tested = " of the tested classes" if evaluation.untested else ""
    named = ((f"Macro F1{of_tested}", "macro_f1"), ("Balanced accuracy", "balanced_accuracy"),
             ("Weighted F1", "weighted_f1"))  # fmt: skip
    return [
        ("Accuracy", percent(evaluation.accuracy), interval(evaluation.accuracy_interval)),
        *((name, percent(getattr(evaluation, key)), interval(evaluation.intervals[key])) for name, key in named),
        *(_ordinal_rows(evaluation.ordinal) if evaluation.ordinal else []),
        *(metric_rows(evaluation.hierarchy) if evaluation.hierarchy else []),
    ]


def _class_table(record: ClassificationRecord) -> Table:
    head = ("Class, lowest F1 first", f"{record.counted.capitalize()}s", "Recall", "Precision", "F1")
    return head, [
        (
            row.name, f"{row.support:,}", with_interval(row.recall, row.recall_interval),
            with_interval(row.precision, row.precision_interval), with_interval(row.f1, row.f1_interval),
        )
        for row in record.weakest_first()
        if row.support
    ]  # fmt: skip


def _calibration_table(record: ClassificationRecord) -> tuple[str, Table] | tuple[()]:
    """How the confidence was calibrated, and its errors before and after."""
    if record.calibrations is None or record.part is None:
        return ()
    (before, after), fitted = record.calibrations, record.metrics["calibration"]
    text = f"The confidence is not calibrated: there were no validation {record.counted}s."
    if fitted["fitted_on"]:
        on = f"{sentences.PARTS[fitted['fitted_on']]} {record.counted}s"
        text = f"Temperature {fitted['temperature']:.3f}, fitted on the {on}."
    rows: list[tuple[str, ...]] = [*sentences.calibration_errors(before, after)] if after.images >= MIN_IMAGES else []
    rows += [
        (name, f"{getattr(before, key):.4f}", f"{getattr(after, key):.4f}")
        for name, key in (("Brier score", "brier"), ("Log loss", "loss"))
    ]
    return text, ((f"On the {sentences.PARTS[record.part]} {record.counted}s", "before", "after"), rows)


def confusion_view(evaluation: Evaluation) -> dict[str, Any]:
    """Return the confusion matrix, as a table or a chart depending on its size, and the most frequent confusions."""
    return _matrix_view(evaluation.confusion, [row.name for row in evaluation.per_class], "confusion")


def _tree_view(hierarchy: Hierarchy) -> dict[str, Any]:
    return {
        "rows": metric_rows(hierarchy),
        "answers": answer_rows(hierarchy),
        "levels": [
            (title, _matrix_view(level.confusion, level.nodes, f"confusion-{level.level}"), level.level)
            for title, level in level_titles(hierarchy)
        ],
    }


def _matrix_view(confusion: np.ndarray, names: Sequence[str], ids: str) -> dict[str, Any]:
    """A confusion matrix; `ids` is unique in the page."""
    support = np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    levels = np.ceil(np.sqrt(confusion / support) * 8).astype(int)
    view: dict[str, Any] = {"names": list(names), "cells": None, "chart": None}
    if len(names) <= MAX_NUMBERS:
        view["cells"] = [
            [(f"{'hit' if i == j else 'miss'} heat-{levels[i, j]}", int(n)) for j, n in enumerate(row)]
            for i, row in enumerate(confusion)
        ]
    elif len(names) <= MAX_DRAWN:
        label = f"{int(np.trace(confusion)):,} of {int(confusion.sum()):,} are on the diagonal."
        figure = plots.confusion.confusion_figure(confusion, names, with_numbers=False)
        view["chart"] = plots.svg.to_svg(figure, ids, label, tight=True)
    view["pairs"] = [
        (names[i], names[j], n, n / int(support[i, 0])) for i, j, n in sentences.confused(confusion, _MAX_PAIRS)
    ]
    return view


def _calibration_view(record: ClassificationRecord) -> dict[str, Any]:
    view: dict[str, Any] = {"charts": [], "rows": [], "title": ""}
    if record.reported is None:
        return view
    if record.calibrations:
        before, after = record.calibrations
        view["title"] = f"At temperature {record.metrics['calibration']['temperature']:.2f}"
        for name, title, calibration in (("before", "before calibration", before), ("after", view["title"], after)):
            label = f"Reliability diagram {title}: expected calibration error {calibration.describe(record.counted)}."
            draw = partial(plots.reliability.draw_reliability, calibration=calibration)
            chart = plots.svg.panel(draw, f"reliability-{name}", label)
            view["charts"].append((f"Reliability diagram, {title[0].lower() + title[1:]}", chart))
        view["rows"] = [
            ("Expected calibration error", *map(_calibration_error, record.calibrations)),
            ("The same by chance alone", *map(_chance, record.calibrations)),
            ("Brier score", f"{before.brier:.4f}", f"{after.brier:.4f}"),
            ("Log loss", f"{before.loss:.4f}", f"{after.loss:.4f}"),
        ]
    coverage, risk = risk_coverage(record.reported)
    half = float(risk[np.searchsorted(coverage, 0.5)])
    label = f"Error rate of all predictions: {100 * risk[-1]:.1f} %; of the more confident half: {100 * half:.1f} %."
    draw = partial(plots.reliability.draw_risk_coverage, coverage=coverage, risk=risk)
    view["charts"].append(("Risk-coverage curve", plots.svg.panel(draw, "risk-coverage", label)))
    return view


def _calibration_error(calibration: Calibration) -> str:
    return f"{100 * calibration.ece:.2f} points" if calibration.images >= MIN_IMAGES else "too few images"


def _chance(calibration: Calibration) -> str:
    if calibration.chance is None or calibration.chance_interval is None:
        return ""
    return f"{100 * calibration.chance:.2f} points ({interval(calibration.chance_interval)})"


def _metrics(record: ClassificationRecord) -> list[tuple[str, str, float]]:
    """Metrics of the front matter: type, name and value."""
    if record.part is None:
        return []
    evaluation = record.evaluations[record.part]
    macro_f1 = "Macro F1" + (" of the tested classes" if evaluation.untested else "")
    metrics = [("accuracy", "Accuracy", evaluation.accuracy), ("f1", macro_f1, evaluation.macro_f1)]
    if evaluation.ordinal and evaluation.ordinal.quadratic_kappa is not None:
        metrics.append(("quadratic_weighted_kappa", "Quadratic weighted kappa", evaluation.ordinal.quadratic_kappa))
    if record.calibrations and evaluation.count >= MIN_IMAGES:
        metrics.append(("expected_calibration_error", "Expected calibration error", record.calibrations[1].ece))
    return [(kind, name, round(value, 6)) for kind, name, value in metrics]


def _weak_classes(record: ClassificationRecord) -> Iterator[str]:
    """A sentence about the classes whose recall is below one half with 97.5 % certainty."""
    rows = record.evaluations[record.part].per_class if record.part else ()
    names = [short(row.name, 40) for row in rows if row.support and row.recall_interval[1] < 0.5]
    if names:
        yield f"The recall is below 50 % for {join_truncated(names)}."


def _label_errors(record: ClassificationRecord) -> Iterator[str]:
    if record.suspects:
        yield (f"{len(record.suspects):,} of the validation and test {record.counted}s may have a wrong label "
               "(label_errors.csv), "
               "which affects all metrics.")  # fmt: skip


REPORT = TaskReport(
    page="run.html.jinja",
    sections=_sections,
    numbers=_numbers,
    train_accuracy="accuracy",
    quality=sentences.quality,
    confidence=sentences.confidence,
    objection=_objection,
    suspect_columns=("path", "label", "looks_like", "probability"),
    suspect_row=lambda suspect: (suspect.path, suspect.label, suspect.suggested, suspect.probability),
    details=_details,
    page_view=_page_view,
    document=_document,
)
