"""Output and input that all verbs share: errors, JSON, the result of a run, times and lists of names."""

from __future__ import annotations

import io
import json
import re
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from regraft.distributed import launch
from regraft.errors import RegraftError, UsageError

if TYPE_CHECKING:
    from regraft.data.dataset import Part
    from regraft.evaluation.metrics import Evaluation
    from regraft.runs.run import Run

#: Classes that the terminal lists where there are more than twice as many.
_WEAKEST = 10

#: For people; standard output is for results.
err = Console(stderr=True, highlight=False, soft_wrap=True)


def console(json_wanted: bool) -> Console:
    """Return the console for people: standard error if standard output carries JSON.

    Of several processes that a launcher has started, only the first prints.
    """
    if (launched := launch()) and launched.rank:
        return Console(quiet=True)
    # A pipe or a file has no width; tables must not be folded there.
    return err if json_wanted else Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)


def fail(error: RegraftError) -> int:
    """Print an error and return the exit code."""
    err.print(f"[bold red]Error:[/bold red] {escape(str(error))}")
    return error.exit_code


def print_json(value: Any, indent: int | None = 2) -> None:
    """Print one JSON document on standard output, in UTF-8 whatever the encoding of the terminal."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    sys.stdout.write(json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


def print_result(console: Console, run: Run, seconds: float) -> None:
    """Print the metrics, the table and the warnings of a run."""
    from regraft.report.record import RANDOM_WEIGHTS
    from regraft.report.run_table import cells_of, run_row

    metrics = run.metrics
    console.print()
    if metrics["model"]["weights"]["source"] == "none":
        console.print(f"[yellow]{RANDOM_WEIGHTS}[/yellow]\n")
    parts: tuple[Part, ...] = ("test", "val")
    if part := next((part for part in parts if part in metrics), None):
        _print_part(console, run, part)
    training = metrics["training"]
    cells = cells_of(run_row(metrics))
    console.print()
    for name, text in cells.items():
        console.print(escape(f"{name:<{max(map(len, cells))}}  {text}"))
    console.print(f"\nTrained on {training['device']} ({training['precision']}), {seconds:.0f} s in total.")
    if run.task == "multilabel":
        if training["stopped"]:
            console.print(f"[yellow]Stopped early: {escape(training['stopped'])}[/yellow]")
        return
    kept = [row for row in run.history if row["kept"]] or [fit for fit in run.head_path if fit["chosen"]]
    measured = kept[-1]["val_accuracy"] if kept else None
    if "val" in metrics and measured is not None and abs(measured - metrics["val"]["accuracy"]) > 1e-6:
        console.print(
            f"Validation accuracy is {100 * metrics['val']['accuracy']:.1f} % in float32, as in prediction; the "
            f"{100 * measured:.1f} % above were measured during training in {training['precision']}."
        )
    if training["stopped"]:
        console.print(f"[yellow]Stopped early: {escape(training['stopped'])}[/yellow]")


def print_report(console: Console, evaluation: Evaluation, rest: str) -> None:
    """Print the classification report; of many classes only the weakest, and where the `rest` is."""
    console.print(escape(evaluation.report(weakest=_WEAKEST)))
    if (count := len(evaluation.per_class)) > 2 * _WEAKEST:
        console.print(escape(f"These are the {_WEAKEST} of {count} classes with the lowest F1; {rest}.\n"))


def _print_part(console: Console, run: Run, part: Part) -> None:
    from regraft.evaluation.calibration import MIN_IMAGES
    from regraft.evaluation.metrics import evaluate
    from regraft.report.record import WITHHELD, calibrations_of

    if run.task == "multilabel":
        labels = run.evaluate_labels(part)
        low, high = labels.intervals["mean_average_precision"]
        console.print(escape(str(labels)))
        console.print(
            f"[bold green]{part.capitalize()} mean average precision {labels.mean_average_precision:.3f}[/bold green] "
            f"(95 % interval {low:.3f} to {high:.3f}) on {labels.count} images, macro-F1 {labels.macro_f1:.3f}."
        )
        return
    evaluation, scores = evaluate(run.predictions.part(part)), run.metrics[part]
    low, high = scores["accuracy_interval"]
    print_report(console, evaluation, f"{run.path / 'metrics.json'} and the report list all")
    console.print(
        f"[bold green]{part.capitalize()} accuracy {100 * scores['accuracy']:.1f} %[/bold green] "
        f"(95 % interval {100 * low:.1f} to {100 * high:.1f}) on {scores['count']} images, "
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
    console.print(f"Expected calibration error: {after.describe()}.")
    calibration = run.metrics["calibration"]
    if calibration["fitted_on"] and after.images >= MIN_IMAGES:
        console.print(
            f"It was {100 * before.ece:.1f} points before temperature scaling on validation (temperature "
            f"{calibration['temperature']:.2f})."
        )
        if round(after.ece, 3) > round(before.ece, 3) or round(after.loss, 3) > round(before.loss, 3):
            console.print("A temperature fitted on few validation images can be slightly worse on these images.")


def print_distillation(console: Console, run: Run) -> None:
    """Print how much of its teacher's gain a run keeps, if it has a teacher."""
    from regraft.report.distillation import describe_result

    for line in describe_result(run.metrics.get("distillation") or {}):
        console.print(f"[bold]{escape(line)}[/bold]")


def print_next(console: Console, run: Run, image: str = "IMAGE.jpg") -> None:
    """List the plots of a run and commands to try next."""
    path = run.path
    console.print("\n[bold]Look at[/bold]")
    contents = {
        "report.html": "report on one page",
        "plots/training_history.png": "learning curves",
        "plots/confusion_matrix.png": "confusion matrix",
        "plots/reliability.png": "reliability diagram",
        "plots/sample_predictions.png": "right and wrong predictions",
    }
    files = {str(path / name): content for name, content in contents.items() if (path / name).exists()}
    for file, content in files.items():
        console.print(escape(f"  {file:<{max(map(len, files))}}   {content}"))
    console.print("\n[bold]Try next[/bold]")
    commands = [f"predict {path} {image}", f"evaluate {path}", f"summary {path}"]
    if run.description["backbone"].get("members"):
        commands.append(f"distill {path} --into efficientnet_lite0   (one small model learns what several say)")
    for command in commands:
        console.print(escape(f"  regraft {command}"))


def parse_seconds(text: str) -> float:
    """Return the seconds of a time such as 90s, 10m, 2h or 90; raise `UsageError` for any other text, and for zero."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if not match or not float(match[1]):
        raise UsageError(f"--budget {text}: expected a time such as 90s, 10m or 2h.")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def parse_names(text: str) -> list[str]:
    """Return the distinct names in a text with commas between them, in order."""
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
