"""What the terminal says of a model that gives an image a number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from regraft.cli.tasks.curve_lines import gain_of_doubling
from regraft.text import in_shell, pluralize

if TYPE_CHECKING:
    from regraft.data.dataset import Part
    from regraft.evaluation.regression.conformal import IntervalCoverage
    from regraft.evaluation.regression.metrics import RegressionEvaluation
    from regraft.evaluation.regression.predictions import RegressionPredictions
    from regraft.runs.run import Run
    from regraft.studies.learning_curve.number_curve import NumberLearningCurve
    from regraft.studies.number_cross_validation import NumberCrossValidation

#: Number of suspected label errors that the terminal lists.
_SUSPECTS = 8
PLOT, ACCURACY = "predicted_true.png", "accuracy"
CALIBRATION_ERROR = "True numbers within their prediction intervals"


def print_report(console: Console, evaluation: RegressionEvaluation, rest: str) -> None:
    """Print all metrics."""
    console.print(escape(str(evaluation)))


def print_part(console: Console, run: Run, part: Part) -> None:
    """Print the metrics of one part of a run."""
    from regraft.evaluation.regression.metrics import RegressionEvaluation
    from regraft.report.tasks import count_answers

    evaluation = RegressionEvaluation.from_json(run.metrics[part])
    low, high = evaluation.intervals["mae"]
    r2 = "" if evaluation.r2 is None else f", R2 {evaluation.r2:.3f}"
    print_report(console, evaluation, "")
    console.print(
        f"[bold green]{part.capitalize()} mean absolute error {evaluation.mae:.4g}[/bold green] of "
        f"{escape(run.classes[0])} (95 % interval {low:.4g} to {high:.4g}) on {count_answers(run.metrics, part)}{r2}."
    )
    for caution in cautions(evaluation):
        console.print(f"[yellow]{escape(caution)}[/yellow]")


def print_note(console: Console, run: Run) -> None:
    """Print what the losses above are."""
    if run.history or run.head_path:
        console.print("Losses above are in squares of the standard deviation of the training images' numbers.")


def print_cross_validation(console: Console, result: NumberCrossValidation) -> None:
    """Print the errors out of fold, and numbers that are likely wrong."""
    evaluation = result.evaluation
    print_report(console, evaluation, "")
    for number, row in enumerate(result.maes, start=1):
        console.print(f"MAE by fold, repeat {number}: " + "  ".join(f"{value:.4g}" for value in row))
    low, high = evaluation.intervals["mae"]
    console.print(
        f"[bold green]Mean absolute error {evaluation.mae:.4g}[/bold green] of {escape(result.predictions.quantity)} "
        f"(95 % interval {low:.4g} to {high:.4g}) on {result.answered.text}; standard deviation "
        f"between folds {result.maes.std(ddof=1):.4g}. Head only, without augmentation or fine-tuning."
    )
    if evaluation.no_better:
        console.print(f"[yellow]{escape(evaluation.no_better)} Likely wrong numbers are withheld.[/yellow]")
    if result.outliers:
        count = pluralize(len(result.outliers), "number is", "numbers are")
        console.print(f"\n{count} far from the others, and may outweigh them; regraft inspect lists all. For example")
        for path, target in result.outliers[:_SUSPECTS]:
            console.print(escape(f"  {path}: {target:.6g}"))
    if result.suspects:
        console.print(f"\n{pluralize(len(result.suspects), 'number is', 'numbers are')} probably wrong, for example")
        for path, target, predicted, _ in result.suspects[:_SUSPECTS]:
            console.print(escape(f"  {path}: {target:.4g}, predicted {predicted:.4g}"))


def learning_curve_lines(curve: NumberLearningCurve) -> list[str]:
    """R2 and mean absolute error by the number of images, and what twice as many bring."""
    unit = curve.answered.unit
    lines = ["", f"{unit:>10}   R2   (95 %)                 MAE   (95 %)"]
    for (kind, n, r2), (_, _, mae) in zip(curve.r2.points(), curve.mae.points(), strict=True):
        if curve.at_chance and kind == "extrapolated":
            continue
        text = f"{n:10,.0f}   {r2.value:.3f}   {r2.low:.3f} to {r2.high:.3f}   {mae.value:8.4g}   "
        remark = "  extrapolated" if kind == "extrapolated" else ""
        lines.append(f"{text}{mae.low:.4g} to {mae.high:.4g}{remark}")
    if curve.at_chance:
        return [*lines, "", f"[yellow]{escape(curve.at_chance)} Nothing is extrapolated from it.[/yellow]"]
    falls = curve.mae.gain
    return [
        *lines,
        "",
        gain_of_doubling(curve.r2, unit, "R2, the share of the variance that is explained"),
        f"The mean absolute error of {escape(curve.quantity)} then falls by {falls.value:.3g} ({falls.low:.3g} to "
        f"{falls.high:.3g}).",
    ]


def describe_test(test: Mapping[str, Any]) -> str:
    """Mean absolute error, RMSE and R2 in a line of markup."""
    low, high = test["intervals"]["mae"]
    r2 = "" if test["r2"] is None else f", R2 {test['r2']:.3f}"
    return (
        f"mean absolute error {test['mae']:.4g}[/bold green] (95 % interval {low:.4g} to {high:.4g}) on "
        f"{pluralize(test['count'], test.get('counted', 'image'))}, RMSE {test['rmse']:.4g}{r2}"
    )


def measure_calibration(predictions: RegressionPredictions) -> IntervalCoverage:
    """How many true numbers are in their prediction intervals."""
    from regraft.evaluation.regression.conformal import measure_coverage

    return measure_coverage(predictions.residuals, predictions.half_width)


def plot(evaluation: RegressionEvaluation, predictions: RegressionPredictions, path: Path, title: str) -> None:
    """Draw predicted over true numbers into a PNG."""
    from regraft.report.plots.predicted_true import plot_predicted_true

    plot_predicted_true(predictions, path, title=title, quantity=predictions.quantity)


def write(predictions: RegressionPredictions, folder: Path) -> str:
    """Write predictions into a folder; returns ""."""
    from regraft.evaluation.stored_predictions import CSV

    predictions.write_csv(folder / CSV)
    return ""


def advice(run: Path) -> str:
    """What to try after an evaluation of stored predictions."""
    return f"regraft report {in_shell(run)}   (a page with predicted over true numbers and the largest errors)"


def cautions(evaluation: RegressionEvaluation) -> list[str]:
    """What limits an evaluation, without what stands below the table of its subgroups."""
    return [*filter(None, [evaluation.no_better]), *replace(evaluation, subgroups=()).cautions()]
