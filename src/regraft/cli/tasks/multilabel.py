"""What the terminal says of a model that gives an image any number of classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from regraft.cli.tasks.curve_lines import gain_of_doubling, lines_of_classes
from regraft.text import in_shell, join_truncated, pluralize

if TYPE_CHECKING:
    from regraft.data.dataset import Part
    from regraft.evaluation.multilabel.metrics import MultilabelEvaluation
    from regraft.evaluation.multilabel.predictions import MultilabelPredictions
    from regraft.runs.run import Run
    from regraft.studies.label_cross_validation import MultilabelCrossValidation
    from regraft.studies.learning_curve.label_curve import MultilabelLearningCurve

#: Classes that the terminal lists where there are more than twice as many.
_WEAKEST = 10
#: Likely wrong labels that the terminal lists.
_SUSPECTS = 5
PLOT, ACCURACY = "precision_recall.png", "exact match"
CALIBRATION_ERROR = "Expected calibration error, mean over the classes"


def print_report(console: Console, evaluation: MultilabelEvaluation, rest: str) -> None:
    """Print the metrics of each class; of many only the weakest, and where the `rest` is."""
    console.print(escape(evaluation.report(weakest=_WEAKEST)))
    if (count := len(evaluation.per_class)) > 2 * _WEAKEST:
        console.print(
            escape(f"These are the {_WEAKEST} of {count} classes with the lowest average precision; {rest}.\n")
        )


def print_part(console: Console, run: Run, part: Part) -> None:
    """Print the metrics of one part of a run."""
    from regraft.evaluation.multilabel.calibration import MultilabelCalibration
    from regraft.evaluation.multilabel.metrics import MultilabelEvaluation
    from regraft.report.multilabel.sentences import thresholds
    from regraft.report.tasks import count_answers

    evaluation = MultilabelEvaluation.from_json(run.metrics[part])
    low, high = evaluation.intervals["mean_average_precision"]
    print_report(console, evaluation, f"{run.path / 'metrics.json'} and the report list all")
    console.print(
        f"[bold green]{part.capitalize()} mean average precision {evaluation.mean_average_precision:.3f}[/bold green] "
        f"(95 % interval {low:.3f} to {high:.3f}) on {count_answers(run.metrics, part)}, "
        f"macro-F1 {evaluation.macro_f1:.3f}."
    )
    for caution in cautions(evaluation):
        console.print(f"[yellow]{escape(caution)}[/yellow]")
    calibration = run.metrics["calibration"]
    for sentence in thresholds(evaluation, calibration, part):
        console.print(escape("".join(sentence)))
    before, after = (MultilabelCalibration.from_json(calibration[part][when]) for when in ("before", "after"))
    console.print(f"{CALIBRATION_ERROR}: {after.describe(evaluation.counted)}.")
    if calibration["fitted_on"]:
        console.print(f"It was {100 * before.ece:.1f} points before each class was calibrated on validation.")


def print_note(console: Console, run: Run) -> None:
    """Nothing: what epochs measure is no metric of the run."""


def print_cross_validation(console: Console, result: MultilabelCrossValidation) -> None:
    """Print the scores out of fold."""
    console.print(escape(str(result.evaluation)))
    for number, row in enumerate(result.mean_average_precisions, start=1):
        console.print(f"mAP by fold, repeat {number}: " + "  ".join(f"{value:.3f}" for value in row))
    console.print(
        f"{result.answered.text}, each predicted by a head that was fitted without it, and answered by thresholds of "
        "the other folds. Head only, without augmentation or fine-tuning."
    )
    if use := result.unlabeled:
        console.print(
            f"Unlabeled images: {use['compared']:,} helped in {use['folds_used']} of {use['folds']} folds; mAP "
            f"{use['mean_average_precision_without']:.3f} without them."
        )
    if result.withheld:
        console.print(f"[yellow]{escape(result.withheld)}[/yellow]")
    if result.suspects:
        found = pluralize(len(result.suspects), "label is", "labels are")
        console.print(f"\n{found} probably wrong or missing, for example")
        for path, labels, name, suggestion, probability in result.suspects[:_SUSPECTS]:
            console.print(escape(f"  {path}: {labels or 'no label'}, {suggestion} {name} ({100 * probability:.0f} %)"))


def learning_curve_lines(curve: MultilabelLearningCurve) -> list[str]:
    """Mean average precision by the number of images, and what twice as many bring, in all and for each class."""
    from regraft.studies.learning_curve.extrapolation import describe_gain

    unit = curve.answered.unit
    lines = ["", f"{unit:>10}   mAP   (95 %)                macro-F1"]
    for (kind, n, p), (_, _, f) in zip(curve.mean_average_precision.points(), curve.macro_f1.points(), strict=True):
        if curve.withheld and kind == "extrapolated":
            continue
        remark = "  extrapolated" if kind == "extrapolated" else ""
        lines.append(f"{n:10,.0f}   {p.value:.3f}   {p.low:.3f} to {p.high:.3f}   {f.value:13.3f}{remark}")
    if curve.withheld:
        return [*lines, "", f"[yellow]{curve.withheld} Nothing is extrapolated from it.[/yellow]"]
    rows = [
        (
            row.name,
            f"average precision {row.average_precision.measured[-1].value:.3f}; "
            f"{describe_gain(row.average_precision.gain, row.average_precision.verdict)}",
        )
        for row in sorted(curve.classes, key=lambda row: -row.average_precision.gain.value)
    ]
    lines += ["", gain_of_doubling(curve.mean_average_precision, unit, "mAP"), *lines_of_classes(rows)]
    if curve.at_chance:
        weak = escape(join_truncated(curve.at_chance))
        lines.append(f"[yellow]The head does not clearly tell {weak} from the rest, so nothing is said of it.[/yellow]")
    return lines


def describe_test(test: Mapping[str, Any]) -> str:
    """Mean average precision, macro-F1 and log loss in a line of markup."""
    low, high = test["intervals"]["mean_average_precision"]
    tested = f" (not tested: {join_truncated(test['untested'])})" if test.get("untested") else ""
    return (
        f"mAP {test['mean_average_precision']:.3f}[/bold green] (95 % interval {low:.3f} to {high:.3f}) on "
        f"{pluralize(test['count'], test.get('counted', 'image'))}, macro-F1 {test['macro_f1']:.3f}{escape(tested)}, "
        f"log loss {test['loss']:.4f}"
    )


def measure_calibration(predictions: MultilabelPredictions) -> Any:
    """The calibration of these predictions, class by class."""
    from regraft.evaluation.multilabel.calibration import measure_label_calibration

    return measure_label_calibration(predictions)


def plot(evaluation: MultilabelEvaluation, predictions: MultilabelPredictions, path: Path, title: str) -> None:
    """Draw precision over recall of each class into a PNG."""
    from regraft.report.plots.precision_recall import plot_precision_recall

    plot_precision_recall(predictions, path, title=title)


def write(predictions: MultilabelPredictions, folder: Path) -> str:
    """Write predictions into a folder; returns ""."""
    from regraft.evaluation.stored_predictions import CSV

    predictions.write_csv(folder / CSV)
    return ""


def advice(run: Path) -> str:
    """What to try after an evaluation of stored predictions."""
    return f"regraft report {in_shell(run)}   (a page with curves, wrong answers and likely label errors)"


def cautions(evaluation: MultilabelEvaluation) -> list[str]:
    """What limits an evaluation, without what stands below the table of its subgroups."""
    return replace(evaluation, subgroups=()).cautions()
