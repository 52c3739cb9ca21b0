"""`regraft report RUN`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from regraft.cli.output import console, print_json


def command(
    run: Annotated[Path, typer.Argument(help="The run's folder.")],
    data: Annotated[
        str | None,
        typer.Option(help="The run's images, for the pictures; default: where the run says that they were."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the names of the files as JSON.")] = False,
) -> None:
    """Write the run's report.html, MODEL_CARD.md and label_errors.csv anew, from what lies in its folder."""
    screen = console(json)
    with screen.status("Writing"):
        from regraft.pipeline.report import CARD, SUSPECTS, write_report

        page = write_report(run, data)
    files = {"report": page, "model_card": run / CARD, "label_errors": run / SUSPECTS}
    if json:
        print_json({name: str(file) for name, file in files.items()})
        return
    for file in files.values():
        screen.print(escape(str(file)))
