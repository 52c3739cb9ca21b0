"""What the terminal says of a model that gives an image one class."""

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
    from regraft.evaluation.metrics import Evaluation
    from regraft.evaluation.predictions import Predictions
    from regraft.runs.run import Run
    from regraft.studies.cross_validation import CrossValidation
    from regraft.studies.learning_curve.learning_curve import LearningCurve

#: Classes that the terminal lists where there are more than twice as many.
_WEAKEST = 10
#: Number of suspected label errors that the terminal lists.
_SUSPECTS = 8
PLOT, ACCURACY, CALIBRATION_ERROR = "confusion_matrix.png", "accuracy", "Expected calibration error"


def print_report(console: Console, evaluation: Evaluation, rest: str) -> None:
    """Print the classification report; of many classes only the weakest, and where the `rest` is."""
    console.print(escape(evaluation.report(weakest=_WEAKEST)))
    if (count := len(evaluation.per_class)) > 2 * _WEAKEST:
        console.print(escape(f"These are the {_WEAKEST} of {count} classes with the lowest F1; {rest}.\n"))
    if evaluation.hierarchy and (answers := evaluation.hierarchy.describe_answers(evaluation.counted)):
        console.print(answers)


def print_part(console: Console, run: Run, part: Part) -> None:
    """Print the metrics of one part of a run."""
    from regraft.evaluation.calibration import MIN_IMAGES
    from regraft.evaluation.hierarchy import hierarchy_of_part
    from regraft.evaluation.metrics import evaluate
    from regraft.report.record import WITHHELD, calibrations_of
    from regraft.report.tasks import count_answers

    hierarchy = hierarchy_of_part(run.predictions, part, run.taxonomy)
    evaluation, scores = replace(evaluate(run.predictions.part(part)), hierarchy=hierarchy), run.metrics[part]
    low, high = scores["accuracy_interval"]
    print_report(console, evaluation, f"{run.path / 'metrics.json'} and the report list all")
    console.print(
        f"[bold green]{part.capitalize()} accuracy {100 * scores['accuracy']:.1f} %[/bold green] "
        f"(95 % interval {100 * low:.1f} to {100 * high:.1f}) on {count_answers(run.metrics, part)}, "
        f"macro-F1 {scores['macro_f1']:.3f}{escape(evaluation.of_tested)}."
    )
    if evaluation.at_chance:
        console.print(f"[yellow]{escape(evaluation.at_chance)} {WITHHELD}[/yellow]")
    for caution in evaluation.cautions():
        console.print(f"[yellow]{escape(caution)}[/yellow]")
    calibrations = calibrations_of(run.metrics, run.predictions.part(part), part)
    if calibrations is None:
        return
    before, after = calibrations
    console.print(f"Expected calibration error: {after.describe(evaluation.counted)}.")
    calibration = run.metrics["calibration"]
    if calibration["fitted_on"] and after.images >= MIN_IMAGES:
        console.print(
            f"It was {100 * before.ece:.1f} points before temperature scaling on validation (temperature "
            f"{calibration['temperature']:.2f})."
        )
        if round(after.ece, 3) > round(before.ece, 3) or round(after.loss, 3) > round(before.loss, 3):
            console.print("A temperature fitted on few validation images can be slightly worse on these images.")


def print_note(console: Console, run: Run) -> None:
    """Print why the validation accuracy differs from that of the last epoch, if it does."""
    metrics, training = run.metrics, run.metrics["training"]
    kept = [row for row in run.history if row["kept"]] or [fit for fit in run.head_path if fit["chosen"]]
    measured = kept[-1]["val_accuracy"] if kept else None
    if "val" in metrics and measured is not None and abs(measured - metrics["val"]["accuracy"]) > 1e-6:
        console.print(
            f"Validation accuracy is {100 * metrics['val']['accuracy']:.1f} % in float32, as in prediction; the "
            f"{100 * measured:.1f} % above were measured during training in {training['precision']}."
        )


def print_cross_validation(console: Console, result: CrossValidation) -> None:
    """Print the scores out of fold, and labels that are likely wrong."""
    print_report(console, result.evaluation, "--json lists all")
    for number, row in enumerate(result.accuracies, start=1):
        console.print(f"Repeat {number}: " + "  ".join(f"{100 * value:.1f} %" for value in row))
    low, high = result.accuracy_interval
    console.print(
        f"[bold green]Accuracy {100 * result.accuracy:.1f} %[/bold green] (95 % interval {100 * low:.1f} to "
        f"{100 * high:.1f}) on {result.answered.text}; standard deviation between folds "
        f"{100 * result.accuracies.std(ddof=1):.1f} points. Head only, without augmentation or fine-tuning."
    )
    if use := result.unlabeled:
        console.print(
            f"Unlabeled images: {use['compared']:,} helped in {use['folds_used']} of "
            f"{use['folds']} folds; accuracy {100 * use['accuracy_without']:.1f} % without them."
        )
    if at_chance := result.evaluation.at_chance:
        console.print(f"[yellow]{escape(at_chance)} Likely label errors are withheld.[/yellow]")
    if result.suspects:
        console.print(f"\n{pluralize(len(result.suspects), 'label is', 'labels are')} probably wrong, for example")
        for path, label, suggested, probability in result.suspects[:_SUSPECTS]:
            console.print(escape(f"  {path}: {label}, looks like {suggested} ({100 * probability:.0f} %)"))


def learning_curve_lines(curve: LearningCurve) -> list[str]:
    """Accuracy by the number of images, and what twice as many bring, in all and for each class."""
    from regraft.studies.learning_curve.extrapolation import describe_gain

    kappas, unit = list(curve.quadratic_kappa or ()), curve.answered.unit
    lines = ["", f"{unit:>10}   accuracy   (95 %)           macro-F1{'      kappa' if kappas else ''}"]
    for (kind, n, a), (_, _, f) in zip(curve.accuracy.points(), curve.macro_f1.points(), strict=True):
        if curve.at_chance and kind == "extrapolated":
            continue
        text = f"{n:10,.0f}   {100 * a.value:6.1f} %   {100 * a.low:5.1f} to {100 * a.high:5.1f}"
        remark = "  extrapolated" if kind == "extrapolated" else f"   {kappas.pop(0).value:8.3f}" if kappas else ""
        lines.append(f"{text}   {100 * f.value:8.1f} %{remark}")
    if curve.at_chance:
        return [*lines, "", f"[yellow]{escape(curve.at_chance)} Nothing is extrapolated from it.[/yellow]"]
    rows = []
    for row in sorted(curve.classes, key=lambda row: -(row.gain_alone or row.recall.gain).value):
        text = f"recall {100 * row.recall.measured[-1].value:5.1f} %; all doubled: "
        text += describe_gain(row.recall.gain, row.recall.verdict)
        if row.gain_alone and row.verdict_alone and row.gain_alone_macro_f1:
            text += f"; it alone: {describe_gain(row.gain_alone, row.verdict_alone)}"
            low, high = 100 * row.gain_alone_macro_f1.low, 100 * row.gain_alone_macro_f1.high
            text += f", macro-F1 {low:+.1f} to {high:+.1f}"
        rows.append((row.name, text))
    return [*lines, "", gain_of_doubling(curve.accuracy, f"{unit} of all classes", "accuracy"), *lines_of_classes(rows)]


def describe_test(test: Mapping[str, Any]) -> str:
    """Accuracy, macro-F1 and log loss in a line of markup."""
    low, high = test["accuracy_interval"]
    tested = f" (not tested: {join_truncated(test['untested'])})" if test.get("untested") else ""
    return (
        f"accuracy {100 * test['accuracy']:.1f} %[/bold green] (95 % interval {100 * low:.1f} to {100 * high:.1f}) on "
        f"{pluralize(test['count'], test.get('counted', 'image'))}, macro-F1 {test['macro_f1']:.3f}{escape(tested)}, "
        f"log loss {test['loss']:.4f}"
    )


def measure_calibration(predictions: Predictions) -> Any:
    """The calibration of these predictions."""
    from regraft.evaluation.calibration import measure_calibration

    return measure_calibration(predictions)


def plot(evaluation: Evaluation, predictions: Predictions, path: Path, title: str) -> None:
    """Draw the confusion matrix into a PNG."""
    from regraft.report.plots.confusion import plot_confusion

    plot_confusion(evaluation.confusion, predictions.classes, path, title=title)


def write(predictions: Predictions, folder: Path) -> str:
    """Write predictions into a folder; returns a sentence, or ""."""
    from regraft.evaluation.stored_predictions import write_predictions

    return write_predictions(predictions, folder)


def advice(run: Path) -> str:
    """What to try after an evaluation of stored predictions."""
    return f"regraft explain {in_shell(run)} --mistakes 6   (heat maps of its most confident errors)"


def cautions(evaluation: Evaluation) -> list[str]:
    """What limits an evaluation of given images."""
    known = (
        []
        if evaluation.overlap is None
        else evaluation.overlap.cautions(evaluation.accuracy, evaluation.headline, evaluation.counted)
    )
    return [*known, evaluation.at_chance]
