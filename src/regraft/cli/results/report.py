"""`regraft report RUN`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from rich.markup import escape
from typer import Option

from regraft.cli.options import Json, RunFolder, RunImages
from regraft.cli.output import console, print_json
from regraft.text import pluralize


def command(
    run: RunFolder,
    data: RunImages = None,
    template: Annotated[
        Literal["model-card", "datasheet", "annex-iv"] | None,
        Option(metavar="NAME", help="One document to complete: model-card, datasheet, or annex-iv (EU AI Act)."),
    ] = None,
    out: Annotated[Path | None, Option(metavar="FILE", help="Its file. Default: in the run's folder.")] = None,
    json: Json = False,
) -> None:
    """Write report.html, MODEL_CARD.md, mlbom.json and label_errors.csv again; or one document, such as a datasheet."""
    screen = console(json)
    with screen.status("Writing"):
        from regraft.report.document import count_places
        from regraft.runs.documents import CARD
        from regraft.runs.report import BILL, SUSPECTS, kept_card, write_report

        written = write_report(run, data, template=template, out=out)
    if template:
        places = count_places(written.read_text(encoding="utf-8"))
        if json:
            print_json({template.replace("-", "_"): str(written), "places": places})
        else:
            screen.print(escape(f"{written}\n{pluralize(places, 'place is', 'places are')} for you to fill."))
        return
    files = {
        "report": written, "model_card": run / CARD, "bill_of_materials": run / BILL, "label_errors": run / SUSPECTS,
    }  # fmt: skip
    if json:
        print_json({name: str(file) for name, file in files.items()})
    else:
        screen.print(escape("\n".join(filter(None, (*map(str, files.values()), kept_card(run))))))
