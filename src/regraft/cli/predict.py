"""`regraft predict RUN IMAGE...`."""

from __future__ import annotations

import csv as csv_module
import json as json_module
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from regraft.cli.output import console, err, listening

if TYPE_CHECKING:
    from collections.abc import Callable

    from regraft.models.inference import Prediction


def command(
    run: Annotated[Path, typer.Argument(help="The run's folder.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    top: Annotated[int, typer.Option(min=1, help="Classes to show for each image.")] = 3,
    batch_size: Annotated[int, typer.Option(min=1, help="Images for one pass of the network.")] = 32,
    csv: Annotated[
        Path | None,
        typer.Option(help="Write a row an image to this file: path, label, confidence, all probabilities, error."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line, as the answers come.")] = False,
) -> None:
    """The likeliest classes of each image, in the order given; a bad file is reported at the end (exit code 1)."""
    from regraft.errors import RegraftError
    from regraft.files import replacing
    from regraft.pipeline.predict import expand
    from regraft.pipeline.run import load

    files = expand(images)
    loaded = load(run)
    screen = console(json)
    count = min(top, len(loaded.classes))
    failed: list[Prediction] = []
    with ExitStack() as stack:
        emit: list[Callable[[Prediction], None]] = []
        table = None
        if json:
            emit.append(lambda prediction: _write_line(prediction, count))
        elif not csv:
            table = Table(
                "image", *[f"{_ordinal(i)} class" for i in range(1, count + 1)], box=None, header_style="bold"
            )
            shown = table
            emit.append(lambda prediction: shown.add_row(*_cells(prediction, count)))
        if csv:
            temporary = stack.enter_context(replacing(csv))
            handle = stack.enter_context(temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace"))
            writer = csv_module.writer(handle, lineterminator="\n")
            writer.writerow(["path", "label", "confidence", *[f"p({name})" for name in loaded.classes], "error"])
            emit.append(lambda prediction: writer.writerow(_row(prediction)))
        with listening(err) as listener:
            for done, prediction in enumerate(loaded.stream(files, batch_size=batch_size), start=1):
                for write in emit:
                    write(prediction)
                if prediction.error is not None:
                    failed.append(prediction)
                if len(files) > batch_size:
                    listener.work("predict", done, len(files), "images")
    if table:
        screen.print(table)
    if csv:
        screen.print(escape(f"{len(files)} rows in {csv}"))
    for prediction in failed:
        err.print(f"[yellow]cannot be read:[/yellow] {escape(prediction.source)}: {escape(prediction.error or '')}")
    if failed:
        raise RegraftError(f"{len(failed)} of {len(files)} images could not be read.")


def _write_line(prediction: Prediction, count: int) -> None:
    value: dict[str, Any] = {"path": prediction.source}
    if prediction.error is None:
        value |= {
            "label": prediction.label,
            "confidence": prediction.confidence,
            "top": [{"label": name, "probability": p} for name, p in prediction.top(count)],
        }
    else:
        value["error"] = prediction.error
    sys.stdout.write(json_module.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _cells(prediction: Prediction, count: int) -> list[str]:
    if prediction.error is not None:
        return [
            escape(prediction.source),
            f"[yellow]{escape(prediction.error)}[/yellow]",
            *[""] * (count - 1),
        ]
    return [
        escape(prediction.source),
        *[f"{escape(name)} {100 * p:.1f} %" for name, p in prediction.top(count)],
    ]


def _row(prediction: Prediction) -> list[Any]:
    if prediction.error is not None:
        return [prediction.source, "", "", *[""] * len(prediction.classes), prediction.error]
    return [
        prediction.source,
        prediction.label,
        prediction.confidence,
        *prediction.probabilities.tolist(),
        "",
    ]


def _ordinal(number: int) -> str:
    return f"{number}{'th' if 10 <= number % 100 <= 20 else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"
