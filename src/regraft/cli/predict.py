"""`regraft predict RUN|EXPORT IMAGE...`."""

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

from regraft.cli.output import console, err
from regraft.pipeline.listening import listening

if TYPE_CHECKING:
    from collections.abc import Callable

    from regraft.models.classifier import Classifier
    from regraft.models.doubt import Doubt
    from regraft.models.inference import Prediction, Predictor


def command(
    run: Annotated[Path, typer.Argument(help="The folder of a run, or of an export.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    top: Annotated[int, typer.Option(min=1, help="Classes to show for each image.")] = 3,
    batch_size: Annotated[int, typer.Option(min=1, help="Images for one pass of the network.")] = 32,
    csv: Annotated[
        Path | None,
        typer.Option(help="Write a row an image to this file: path, label, confidence, all probabilities, error."),
    ] = None,
    sure: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Say 'not sure' where validation was right less often than this share, such as 0.95, of the answers.",
        ),
    ] = None,
    cover: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Add the classes among which the true one is with this probability."),
    ] = None,
    unknown: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Say 'unknown' of what is stranger than all but this share, such as 0.01, of the validation images.",
        ),
    ] = None,
    tta: Annotated[
        str, typer.Option(help="Average over views: none, flip (twice the work) or crops (twelve times).")
    ] = "none",
    trust: Annotated[
        bool, typer.Option("--trust", help="Load an export whose format may run code (exported-program).")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line, as the answers come.")] = False,
) -> None:
    """The likeliest classes of each image, in the order given; a bad file is reported at the end (exit code 1)."""
    from regraft.errors import RegraftError, UsageError
    from regraft.exporting.exported import ExportedModel, is_export
    from regraft.files import replacing
    from regraft.models.doubt import Doubt
    from regraft.models.inference import check_tta, one_or_many, predict_images
    from regraft.pipeline.run import load

    views = check_tta(tta)
    files = list(one_or_many(images))
    screen = console(json)
    model: Classifier | Predictor
    sure_from = None
    if is_export(run):
        asked = {"--sure": sure, "--cover": cover, "--unknown": unknown}
        if given := [name for name, value in asked.items() if value is not None]:
            raise UsageError(f"{', '.join(given)} is for runs: {run} is an export, without its validation images.")
        model, doubt = ExportedModel(run, trust=trust), Doubt()
    else:
        loaded = load(run)
        sure_from = None if sure is None else loaded.threshold(sure)
        doubt = Doubt(
            None if sure_from is None else sure_from.threshold,
            None if cover is None else loaded.least_probability(cover),
            None if unknown is None else loaded.least_familiarity(unknown),
        )
        model = loaded.classifier
    count = min(top, len(model.classes))
    failed: list[Prediction] = []
    with ExitStack() as stack:
        emit: list[Callable[[Prediction], None]] = []
        table = None
        if json:
            emit.append(lambda prediction: _write_line(prediction, count, doubt))
        elif not csv:
            columns = [f"{_ordinal(i)} class" for i in range(1, count + 1)]
            table = Table("image", *doubt.columns, *columns, box=None, header_style="bold")
            shown = table
            emit.append(lambda prediction: shown.add_row(*_cells(prediction, count, doubt)))
        if csv:
            temporary = stack.enter_context(replacing(csv))
            handle = stack.enter_context(temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace"))
            writer = csv_module.writer(handle, lineterminator="\n")
            names = [f"p({name})" for name in model.classes]
            writer.writerow(["path", "label", "confidence", *doubt.columns, *names, "error"])
            emit.append(lambda prediction: writer.writerow(_row(prediction, doubt)))
        with listening(err) as listener:
            for done, prediction in enumerate(predict_images(model, files, batch_size=batch_size, tta=views), start=1):
                for write in emit:
                    write(prediction)
                if prediction.error is not None:
                    failed.append(prediction)
                if len(files) > batch_size:
                    listener.work("predict", done, len(files), "images")
    if table:
        screen.print(table)
        if sure_from is not None:
            found = sure_from
            low, high = found.accuracy_interval
            screen.print(
                f"[dim]Sure is a confidence of {100 * found.threshold:.1f} % or more: {100 * found.coverage:.0f} % of "
                f"{found.count} validation images had it, and {100 * found.accuracy:.1f} % of these (95 % interval "
                f"{100 * low:.1f} to {100 * high:.1f}) were right.[/dim]"
            )
    if csv:
        screen.print(escape(f"{len(files)} rows in {csv}"))
    for prediction in failed:
        err.print(f"[yellow]cannot be read:[/yellow] {escape(prediction.source)}: {escape(prediction.error or '')}")
    if failed:
        raise RegraftError(f"{len(failed)} of {len(files)} images could not be read.")


def _words(doubt: Doubt, prediction: Prediction) -> list[str]:
    """What is doubtful as texts, one a column."""
    found = doubt.of(prediction)
    words = {
        "unknown": "unknown" if found.get("unknown") else "no",
        "sure": "yes" if found.get("sure") else "not sure",
        "set": ", ".join(found.get("set", [])) or "none",
    }
    return [words[name] if name in found else "" for name in doubt.columns]


def _write_line(prediction: Prediction, count: int, doubt: Doubt) -> None:
    value = {"path": prediction.source, **doubt.to_json(prediction, count)}
    sys.stdout.write(json_module.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _cells(prediction: Prediction, count: int, doubt: Doubt) -> list[str]:
    if prediction.error is not None:
        return [
            escape(prediction.source),
            *[""] * len(doubt.columns),
            f"[yellow]{escape(prediction.error)}[/yellow]",
            *[""] * (count - 1),
        ]
    style = "[dim]{}[/dim]" if doubt.label(prediction) is None else "{}"
    return [
        escape(prediction.source),
        *map(escape, _words(doubt, prediction)),
        *[style.format(f"{escape(name)} {100 * p:.1f} %") for name, p in prediction.top(count)],
    ]


def _row(prediction: Prediction, doubt: Doubt) -> list[Any]:
    if prediction.error is not None:
        return [
            prediction.source,
            "",
            "",
            *_words(doubt, prediction),
            *[""] * len(prediction.classes),
            prediction.error,
        ]
    return [
        prediction.source,
        doubt.label(prediction) or "",
        prediction.confidence,
        *_words(doubt, prediction),
        *prediction.probabilities.tolist(),
        "",
    ]


def _ordinal(number: int) -> str:
    return f"{number}{'th' if 10 <= number % 100 <= 20 else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"
