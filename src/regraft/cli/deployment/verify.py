"""`regraft verify EXPORT`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.markup import escape
from typer import Argument

from regraft.cli.options import Json, Trust
from regraft.cli.output import console, print_json


def command(
    export: Annotated[Path, Argument(help="Folder of an export.")], trust: Trust = False, json: Json = False
) -> None:
    """Check that an export's files are unchanged and that its predictions agree with the run's (else exit code 1)."""
    screen = console(json)
    with screen.status("Starting"):
        from regraft.exporting.verify import verify

        parity = verify(export, trust=trust)
    if json:
        print_json(parity.to_json())
        return
    screen.print(
        f"{escape(str(export))}: the files are unchanged, and the export predicts as it did on {parity.images} images "
        f"(largest difference of a probability {parity.largest_difference:.1e})."
    )
