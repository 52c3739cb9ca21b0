"""What all verbs print alike: errors, JSON, progress, the result of a run."""

from __future__ import annotations

import json
import re
import sys
import time
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from regraft.errors import RegraftError, UsageError

if TYPE_CHECKING:
    from regraft.pipeline.run import Run

#: People read this; programs read standard output.
err = Console(stderr=True, highlight=False, soft_wrap=True)


def console(json_wanted: bool) -> Console:
    """Where text for people goes: standard error when standard output carries JSON."""
    # A pipe or a file has no width; tables must not be folded there.
    return err if json_wanted else Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)


def fail(error: RegraftError) -> int:
    """Print an error and return the exit code."""
    err.print(f"[bold red]Error:[/bold red] {escape(str(error))}")
    return error.exit_code


def print_json(value: Any) -> None:
    """Print one JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def print_result(console: Console, run: Run, seconds: float) -> None:
    """Say how good the run is, where it lies and what to do next."""
    from regraft.evaluation.metrics import evaluate

    metrics = run.metrics
    part = next((p for p in ("test", "val") if p in metrics), None)
    console.print()
    if part:
        console.print(escape(evaluate(run.predictions.part(part)).report()))
        scores = metrics[part]
        low, high = scores["accuracy_interval"]
        console.print(
            f"[bold green]{part.capitalize()} accuracy {100 * scores['accuracy']:.1f} %[/bold green] "
            f"(95 % interval {100 * low:.1f} to {100 * high:.1f}) on {scores['count']} images, "
            f"macro-F1 {scores['macro_f1']:.3f}."
        )
        for caution in evaluate(run.predictions.part(part)).cautions():
            console.print(f"[yellow]{escape(caution)}[/yellow]")
        calibration = metrics.get("calibration")  # earlier versions knew of none
        if calibration and calibration["fitted_on"]:
            was, now = calibration[part]["before"], calibration[part]["after"]
            before, after = was["ece"], now["ece"]
            console.print(
                f"Confidence is off by {100 * after:.1f} points on average; {100 * before:.1f} before it was "
                f"calibrated on validation (temperature {calibration['temperature']:.2f})."
            )
            if round(after, 3) > round(before, 3) or round(now["loss"], 3) > round(was["loss"], 3):
                console.print("A temperature that fits few validation images may fit these a little worse.")
    model, steps = metrics["model"], metrics["time"]
    tuned = f"fine-tuned from {model['finetuned_from']}" if model["finetuned_from"] else "head only"
    console.print(
        f"{model['backbone']} at {model['image_size']} px, {tuned}, {model['parameters'] / 1e6:.1f} M parameters, "
        f"{model['megabytes']:.0f} MB. Trained in {steps['train_seconds']:.0f} s on {metrics['training']['device']} "
        f"({metrics['training']['precision']}), {seconds:.0f} s in all, "
        f"peak memory {metrics['memory']['peak_megabytes']:.0f} MB."
    )
    if steps["predict_ms_per_image"] is not None:
        console.print(f"Prediction takes {steps['predict_ms_per_image']:.1f} ms an image, from the file.")
    kept = next((row["val_accuracy"] for row in reversed(run.history) if row["kept"]), None)
    if "val" in metrics and kept is not None and abs(kept - metrics["val"]["accuracy"]) > 1e-6:
        console.print(
            f"As it predicts, in float32, validation accuracy is {100 * metrics['val']['accuracy']:.1f} %; the "
            f"{100 * kept:.1f} % above were measured while training, in {metrics['training']['precision']}."
        )
    if metrics["training"]["stopped"]:
        console.print(f"[yellow]Stopped early: {escape(metrics['training']['stopped'])}[/yellow]")


def print_next(console: Console, run: Run, image: str = "IMAGE.jpg") -> None:
    """Name the pictures and the commands to try."""
    path = run.path
    console.print("\n[bold]Look at[/bold]")
    pictures = {
        str(path / name): what
        for name, what in (
            ("report.html", "all of it on one page"),
            ("plots/training_history.png", "how training went"),
            ("plots/confusion_matrix.png", "what is taken for what"),
            ("plots/reliability.png", "whether confidence can be believed"),
            ("plots/sample_predictions.png", "right and wrong predictions"),
        )
        if (path / name).exists()
    }
    for picture, what in pictures.items():
        console.print(escape(f"  {picture:<{max(map(len, pictures))}}   {what}"))
    console.print("\n[bold]Try next[/bold]")
    console.print(escape(f"  regraft predict {path} {image}"))
    console.print(escape(f"  regraft evaluate {path}"))
    console.print(escape(f"  regraft summary {path}"))


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        """Start."""
        self.started = time.monotonic()

    def __call__(self) -> float:
        """Read."""
        return time.monotonic() - self.started


def seconds_of(text: str) -> float:
    """90s, 10m, 2h or plain seconds as seconds.

    Raises:
        UsageError: It is none of these.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if not found or not float(found[1]):
        raise UsageError(f"--budget {text}: expected a time such as 90s, 10m or 2h.")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]
