"""What the report of a run says whose model gives an image a number.

Input: its record. Output: values for the templates of the page and the model card.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from regraft.evaluation.regression.conformal import COVERAGE, least_images
from regraft.report import plots
from regraft.report.html import Name, percent
from regraft.report.record import WITHHELD
from regraft.report.regression.record import RegressionRecord
from regraft.report.sentences import PARTS
from regraft.report.task_report import DocumentView, Sentence, TaskReport
from regraft.text import pluralize

_UNBROKEN_TO = "\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}"


def _sections(record: RegressionRecord) -> dict[str, str]:
    return {"scores": "Errors", "predicted_true": "Predicted and true", "predictions": "Largest errors"}


def _numbers(record: RegressionRecord) -> list[tuple[str, str]]:
    if record.part is None:
        return []
    evaluation = record.evaluations[record.part]
    bounds = _UNBROKEN_TO.join(f"{bound:.3g}" for bound in evaluation.intervals["mae"])
    numbers = [
        (f"{evaluation.mae:.4g}", f"{record.part} mean absolute error ({bounds})"),
        (f"{evaluation.rmse:.4g}", "RMSE"),
    ]
    if evaluation.r2 is not None:
        numbers.append((f"{evaluation.r2:.3f}", "R2"))
    if evaluation.half_width is not None:
        numbers.append((f"±{evaluation.half_width:.4g}", f"prediction interval ({100 * COVERAGE:g} %)"))
    return [*numbers, (f"{evaluation.count:,}", f"{record.part} {record.counted}s")]


def _quality(record: RegressionRecord) -> Iterator[Sentence]:
    """Yield the sentences that say how good the model is."""
    if record.part is None:
        return
    evaluation, part = record.evaluations[record.part], PARTS[record.part]
    low, high = evaluation.intervals["mae"]
    yield (
        f"On {pluralize(evaluation.count, f'{part} {record.counted}')}, the predicted “", Name(record.quantity),
        f"” is off by {evaluation.mae:.4g} on average (mean absolute error; 95 % confidence interval {low:.4g} to "
        f"{high:.4g}), and for half of the {record.counted}s by less than {evaluation.median_absolute_error:.4g}.",
    )  # fmt: skip
    text = f"The root mean squared error is {evaluation.rmse:.4g}; predicting the mean of the true numbers for every " \
           f"{record.counted} would have {evaluation.deviation:.4g}"  # fmt: skip
    if evaluation.r2 is not None:
        low, high = evaluation.intervals["r2"]
        text += f", so the model explains {100 * evaluation.r2:.1f} % of their variance (R2 {evaluation.r2:.3f}, " \
                f"{low:.3f} to {high:.3f})"  # fmt: skip
    yield (f"{text}.",)
    if record.at_chance:
        yield (f"{record.at_chance} {WITHHELD}",)


def _intervals(record: RegressionRecord) -> Iterator[Sentence]:
    """Yield the sentences about prediction intervals."""
    if record.part is None:
        return
    evaluation = record.evaluations[record.part]
    if evaluation.half_width is None or evaluation.coverage is None or evaluation.coverage_interval is None:
        yield (
            f"There are no prediction intervals: for {100 * COVERAGE:g} % coverage they need at least "
            f"{least_images()} validation {record.counted}s.",
        )
        return
    low, high = (100 * bound for bound in evaluation.coverage_interval)
    on = ""
    if record.part != "val":
        share = f"{percent(evaluation.coverage)} are ({low:.1f} to {high:.1f} %)"
        on = f" On the {PARTS[record.part]} {record.counted}s, {share}."
    yield (
        f"The true number is expected within ±{evaluation.half_width:.4g} of the prediction for {100 * COVERAGE:g} % "
        f"of the {record.counted}s (split conformal prediction on the validation {record.counted}s).{on}",
    )


def _objection(record: RegressionRecord) -> Sentence:
    return (record.at_chance,) if record.at_chance else ()


def _rows(record: RegressionRecord) -> list[tuple[str, str, str]]:
    """Name, value and 95 % interval of each metric."""
    if record.part is None:
        return []
    evaluation = record.evaluations[record.part]

    def bounds(name: str) -> str:
        pair = evaluation.intervals.get(name)
        return "" if pair is None else f"{pair[0]:.4g} to {pair[1]:.4g}"

    rows = [
        ("Mean absolute error (MAE)", f"{evaluation.mae:.4g}", bounds("mae")),
        ("Root mean squared error (RMSE)", f"{evaluation.rmse:.4g}", bounds("rmse")),
        ("R2", "-" if evaluation.r2 is None else f"{evaluation.r2:.4f}", bounds("r2")),
        ("Median absolute error", f"{evaluation.median_absolute_error:.4g}", ""),
        ("Bias (mean of predicted minus true)", f"{evaluation.bias:.4g}", ""),
        ("Mean of the true numbers", f"{evaluation.mean:.4g}", ""),
        ("Their standard deviation", f"{evaluation.deviation:.4g}", ""),
    ]
    if evaluation.coverage is not None and evaluation.coverage_interval is not None:
        low, high = (100 * bound for bound in evaluation.coverage_interval)
        name = f"True numbers within ±{evaluation.half_width:.4g}"
        rows.append((name, percent(evaluation.coverage), f"{low:.1f} to {high:.1f} %"))
    return rows


def _page_view(record: RegressionRecord) -> dict[str, Any]:
    chart = None
    if (predictions := record.reported) is not None and len(predictions):
        draw = partial(plots.predicted_true.draw_predicted_true, predictions=predictions, quantity=record.quantity)
        label = plots.predicted_true.describe_predicted_true(predictions)
        chart = plots.svg.panel(draw, "predicted-true", label)
    view = {"score_rows": _rows(record), "predicted_true": chart, "answers": _answers(record)}
    return view | {"number_rows": _number_rows(record)}


def _number_rows(record: RegressionRecord) -> list[tuple[str, ...]]:
    """For each part its images, and the least, the mean and the largest number, with their standard deviation."""
    rows = []
    for part, spread in (record.metrics.get("numbers") or {}).items():
        values = (spread[name] for name in ("least", "mean", "largest", "deviation"))
        rows.append((part, f"{sum(record.counts.get(part, {}).values()):,}", *(f"{value:.4g}" for value in values)))
    return rows


def _answers(record: RegressionRecord) -> dict[int, str]:
    """For each reported image that is shown, its true and its predicted number."""
    if (predictions := record.reported) is None:
        return {}
    return {
        row: f"{predictions.targets[row]:.4g} → {predictions.values[row]:.4g}"
        for _, rows, _ in record.picture_groups() for row in rows
    }  # fmt: skip


def _document(record: RegressionRecord) -> DocumentView:
    evaluation, name = record.evaluations[record.part] if record.part else None, Name(record.quantity)
    intervals = "There are no prediction intervals."
    if evaluation and evaluation.half_width is not None:
        intervals = (f"The prediction intervals are those of split conformal prediction, fitted on the validation "
                     f"{record.counted}s: all have the same width.")  # fmt: skip
    return DocumentView(
        kind=("a model that predicts a number for an image, ", name),
        pipeline="image-regression",
        answers=("The model predicts ", name,
                 f", with an interval where there were enough validation {record.counted}s."),
        always_answers="Numbers far outside of those of the training images are not to be expected of it",
        labels="each with a number",
        decides="The answer is the number.",
        metrics=_metrics(record),
        scores=_rows(record),
        about_scores="Errors are in the unit of the numbers. R2 is the share of the numbers' variance that the model "
        "explains: 1 is perfect, and 0 what their mean would have. The 95 % confidence intervals are a Bayesian "
        f"bootstrap's over the {record.counted}s, and Wilson's for shares. They assume independent {record.counted}s.",
        calibration=(intervals, ((), [])) if evaluation else (),
        printed="prediction.value, prediction.interval",
    )  # fmt: skip


def _metrics(record: RegressionRecord) -> list[tuple[str, str, float]]:
    """Metrics of the front matter: type, name and value."""
    if record.part is None:
        return []
    evaluation = record.evaluations[record.part]
    metrics = [("mae", "Mean absolute error", evaluation.mae), ("rmse", "Root mean squared error", evaluation.rmse)]
    if evaluation.r2 is not None:
        metrics.append(("r_squared", "R2", evaluation.r2))
    return [(kind, name, round(value, 6)) for kind, name, value in metrics]


REPORT = TaskReport(
    page="regression.html.jinja",
    sections=_sections,
    numbers=_numbers,
    train_accuracy="",
    quality=_quality,
    confidence=_intervals,
    objection=_objection,
    suspect_columns=("path", "label", "looks_like", "probability"),
    suspect_row=lambda suspect: (),
    details=_page_view,
    page_view=_page_view,
    document=_document,
)
