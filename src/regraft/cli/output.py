"""Output and input that all verbs share: errors, JSON, the result of a run, times and lists of names."""

from __future__ import annotations

import io
import json
import re
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from regraft.cli.tasks import OUTPUTS
from regraft.distributed import launch
from regraft.errors import RegraftError, UsageError
from regraft.terminal import PrintableConsole
from regraft.text import in_shell

if TYPE_CHECKING:
    from regraft.data.dataset import Part
    from regraft.evaluation.tasks import AnyEvaluation
    from regraft.runs.run import Run

#: For people; standard output is for results.
err = PrintableConsole(stderr=True, highlight=False, soft_wrap=True)


def console(json_wanted: bool) -> Console:
    """Return the console for people: standard error if standard output carries JSON.

    Of several processes that a launcher has started, only the first prints.
    """
    if (launched := launch()) and launched.rank:
        return PrintableConsole(quiet=True)
    # A pipe or a file has no width; tables must not be folded there.
    return (
        err
        if json_wanted
        else PrintableConsole(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
    )


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
    from regraft.report.tasks import describe_groups
    from regraft.runs.subgroups import evaluate_stored

    metrics, task = run.metrics, OUTPUTS[run.task]
    console.print()
    if metrics["model"]["weights"]["source"] == "none":
        console.print(f"[yellow]{RANDOM_WEIGHTS}[/yellow]\n")
    if text := describe_groups(metrics):
        console.print(escape(text) + "\n")
    parts: tuple[Part, ...] = ("test", "val")
    if part := next((part for part in parts if part in metrics), None):
        task.print_part(console, run, part)
        if metrics[part].get("subgroups"):
            print_subgroups(console, evaluate_stored(run, part))
    training = metrics["training"]
    cells = cells_of(run_row(metrics))
    console.print()
    for name, text in cells.items():
        console.print(escape(f"{name:<{max(map(len, cells))}}  {text}"))
    console.print(f"\nTrained on {training['device']} ({training['precision']}), {seconds:.0f} s in total.")
    task.print_note(console, run)
    if training["stopped"]:
        console.print(f"[yellow]Stopped early: {escape(training['stopped'])}[/yellow]")


def print_subgroups(console: Console, evaluation: AnyEvaluation) -> None:
    """Print the metrics of each subgroup, and what limits them."""
    for subgroups in evaluation.subgroups:
        console.print(escape(str(subgroups)))
        for caution in subgroups.cautions():
            console.print(f"[yellow]{escape(caution)}[/yellow]")


def print_distillation(console: Console, run: Run) -> None:
    """Print how much of its teacher's gain a run keeps, if it has a teacher."""
    from regraft.report.distillation import describe_result

    for line in describe_result(run.metrics.get("distillation") or {}):
        console.print(f"[bold]{escape(line)}[/bold]")


def print_next(console: Console, run: Run, image: str = "IMAGE.jpg") -> None:
    """List the plots of a run and commands to try next."""
    path, quoted = run.path, in_shell(run.path)
    console.print("\n[bold]Look at[/bold]")
    contents = {
        "report.html": "report on one page",
        "plots/training_history.png": "learning curves",
        "plots/confusion_matrix.png": "confusion matrix",
        "plots/predicted_true.png": "predicted over true numbers",
        "plots/reliability.png": "reliability diagram",
        "plots/precision_recall.png": "precision over recall of each class",
        "plots/sample_predictions.png": "right and wrong predictions",
    }
    files = {str(path / name): content for name, content in contents.items() if (path / name).exists()}
    for file, content in files.items():
        console.print(escape(f"  {file:<{max(map(len, files))}}   {content}"))
    console.print("\n[bold]Try next[/bold]")
    if pool_by := run.description.get("pool_by"):
        image = f"IMAGES --pool-by {in_shell(pool_by)}"
    commands = [f"predict {quoted} {image}", f"evaluate {quoted}", f"summary {quoted}"]
    if run.description["backbone"].get("members"):
        commands.append(f"distill {quoted} --into efficientnet_lite0   (one small model learns what several say)")
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
