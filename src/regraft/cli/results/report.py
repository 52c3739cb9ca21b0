"""`regraft report RUN`."""

from __future__ import annotations

from rich.markup import escape

from regraft.cli.options import Json, RunFolder, RunImages
from regraft.cli.output import console, print_json


def command(run: RunFolder, data: RunImages = None, json: Json = False) -> None:
    """Write report.html, MODEL_CARD.md, mlbom.json and label_errors.csv again from the files in the run's folder."""
    screen = console(json)
    with screen.status("Writing"):
        from regraft.runs.report import BILL, CARD, SUSPECTS, write_report

        page = write_report(run, data)
    files = {"report": page, "model_card": run / CARD, "bill_of_materials": run / BILL, "label_errors": run / SUSPECTS}
    if json:
        print_json({name: str(file) for name, file in files.items()})
    else:
        screen.print(escape("\n".join(map(str, files.values()))))
